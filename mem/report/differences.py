"""Paired differences between methods, and the selection and order of methods in tables and figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from mem.errors import UserError
from mem.metrics import PairedDifference, holm, interval, paired_student
from mem.report.results import SHOTS, ScoreRow, by_variant

MANY_VARIANTS = 12
"""Tables with more variants than this are sorted by accuracy on val."""
MINUS_SIGN = "−"


def reference_variant(rows: Sequence[ScoreRow]) -> str:
    """Return the variant that all others are compared with: cRT if present, otherwise the first variant."""
    methods = {row.variant: row.method for row in rows}
    if methods.get("crt") == "crt":
        return "crt"
    return next((variant for variant, method in methods.items() if method == "crt"), next(iter(methods)))


def val_accuracy(rows: Sequence[ScoreRow]) -> dict[str, float]:
    """Return the mean accuracy on val of every variant that was evaluated on val."""
    return {
        variant: interval([row.all for row in val_rows]).mean
        for variant, val_rows in by_variant(rows, "val").items()
        if val_rows
    }


def best_on_val(rows: Sequence[ScoreRow]) -> str | None:
    """Return the variant with the highest mean accuracy on val (the first in a tie), or `None` without a val split."""
    accuracy = val_accuracy(rows)
    return max(accuracy, key=lambda variant: accuracy[variant]) if accuracy else None


def sorted_variants(rows: Sequence[ScoreRow]) -> list[str]:
    """Return the variants in the study's order, or sorted by accuracy on val if there are many and val exists."""
    variants = list(dict.fromkeys(row.variant for row in rows))
    accuracy = val_accuracy(rows)
    if len(variants) <= MANY_VARIANTS or not accuracy:
        return variants
    return sorted(variants, key=lambda variant: -accuracy.get(variant, float("-inf")))


def variants_to_plot(rows: Sequence[ScoreRow], limit: int) -> list[str]:
    """Return up to `limit` variants for a figure: CE, the reference, and the first variants in sorted order."""
    variants = sorted_variants(rows)
    if len(variants) <= limit:
        return variants
    methods = {row.variant: row.method for row in rows}
    required = {reference_variant(rows), *[v for v in variants if methods[v] == "ce"][:1]}
    best = [variant for variant in variants if variant not in required][: limit - len(required)]
    return [variant for variant in variants if variant in required or variant in best]


def paired_differences(
    rows: Sequence[ScoreRow], split: str, reference: str, columns: Sequence[str] = SHOTS
) -> dict[str, dict[str, PairedDifference]]:
    """Return each variant's scores minus those of the reference.

    Runs are paired by seed and class order. Variants without a common run are omitted.

    Raises:
        UserError: There is no variant named `reference`.
    """
    grouped = by_variant(rows, split)
    if reference not in grouped:
        raise UserError(f"There is no head `{reference}` to compare with. The study has: {', '.join(grouped)}.")
    differences = {
        variant: difference_of(rows, variant, reference, split, columns) for variant in grouped if variant != reference
    }
    return {variant: scores for variant, scores in differences.items() if any(score.pairs for score in scores.values())}


def difference_of(
    rows: Sequence[ScoreRow],
    variant: str,
    reference: str,
    split: str = "test",
    columns: Sequence[str] = SHOTS,
) -> dict[str, PairedDifference]:
    """Return the scores of one variant minus those of another, paired over their common runs; NaN without such runs."""
    grouped = by_variant(rows, split)
    reference_row = {row.repeat: row for row in grouped[reference]}
    pairs = [(row, reference_row[row.repeat]) for row in grouped[variant] if row.repeat in reference_row]
    return {
        name: paired_student([getattr(a, name) for a, _ in pairs], [getattr(b, name) for _, b in pairs])
        for name in columns
    }


def difference_table(
    differences: Mapping[str, Mapping[str, PairedDifference]], reference: str, order: Iterable[str]
) -> list[list[str]]:
    """Return a table with one line per method: differences by shot group, p-values over all classes, and run pairs."""
    variants = [variant for variant in order if variant in differences]
    p_values = [differences[variant]["all"].p for variant in variants]
    adjusted = holm([1.0 if p is None else p for p in p_values])
    lines = [[f"minus {reference}", *SHOTS, "p", "p, adjusted", "pairs"]]
    for variant, p, adjusted_p in zip(variants, p_values, adjusted, strict=True):
        scores = differences[variant]
        shots = [format_difference(scores[shot]) for shot in SHOTS]
        tests = ["-", "-"] if p is None else [format_p_value(p), format_p_value(adjusted_p)]
        lines.append([variant, *shots, *tests, str(scores["all"].pairs)])
    return lines


def format_difference(difference: PairedDifference) -> str:
    """Format a difference with its sign and its 95 % interval."""
    return format_signed(difference.mean, difference.half_width)


def format_signed(mean: float, half_width: float | None = None) -> str:
    """Format a number with its sign and, if given, the half-width of its interval; `-` for NaN."""
    if np.isnan(mean):
        return "-"
    number = f"{mean:+.2f}".replace("-", MINUS_SIGN)
    return number if half_width is None else f"{number} ± {half_width:.2f}"


def format_p_value(p: float) -> str:
    """Format a p-value with three decimals if it is below 0.1, otherwise with two."""
    return "<0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"
