"""Paired differences between methods over the runs of a study."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence

import numpy as np

from mem.errors import UserError
from mem.metrics import PairedDifference, holm, paired_student
from mem.report.results import SHOTS, ScoreRow, by_variant

PREDICTION_SCORES = (*SHOTS, "balanced", "group_recall_many", "group_recall_medium", "group_recall_few")
"""Scores that depend only on the predicted classes."""
MINUS_SIGN = "−"


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
    return paired_scores(pairs, columns)


def paired_scores(pairs: Sequence[tuple[ScoreRow, ScoreRow]], columns: Sequence[str]) -> dict[str, PairedDifference]:
    """Return the mean difference first - second of each score over pairs of runs of the same class order and seed."""
    orders = [row.order for row, _ in pairs]
    return {
        name: paired_student([getattr(a, name) for a, _ in pairs], [getattr(b, name) for _, b in pairs], orders)
        for name in columns
    }


def identities(rows: Sequence[ScoreRow], split: str) -> dict[str, Hashable]:
    """Return a value for each variant that is equal for variants with the same predictions in every run.

    Predictions count as the same if all scores agree that depend on them. For example, readings of MEM that are equal
    by construction, or heads of a sweep with the settings of another head, have the same predictions.
    """
    return {
        variant: tuple(
            (row.repeat, *(f"{getattr(row, name):.4f}" for name in PREDICTION_SCORES))
            for row in sorted(split_rows, key=lambda row: row.repeat)
        )
        for variant, split_rows in by_variant(rows, split).items()
    }


def equal_sets(identity_of: Mapping[str, Hashable]) -> list[list[str]]:
    """Return the sets of several variants with the same identity."""
    sets: dict[Hashable, list[str]] = {}
    for variant, identity in identity_of.items():
        sets.setdefault(identity, []).append(variant)
    return [variants for variants in sets.values() if len(variants) > 1]


def holm_over_distinct(
    p_of: Mapping[str, float], identity_of: Mapping[str, Hashable], reference: str
) -> dict[str, float]:
    """Return p-values adjusted by Holm's method. Variants with the same identity are one hypothesis.

    A variant that is identical to the reference is no hypothesis at all: its p-value is 1, before and after.
    """
    tested = [variant for variant in p_of if identity_of[variant] != identity_of[reference]]
    adjusted = holm([p_of[variant] for variant in tested], [identity_of[variant] for variant in tested])
    return {**dict.fromkeys(p_of, 1.0), **dict(zip(tested, adjusted, strict=True))}


def difference_table(
    differences: Mapping[str, Mapping[str, PairedDifference]],
    reference: str,
    order: Iterable[str],
    identity_of: Mapping[str, Hashable],
) -> list[list[str]]:
    """Return a table with one line per method: differences by shot group, p-values over all classes, and run pairs.

    Args:
        differences: Result of `paired_differences`.
        reference: The variant that is subtracted.
        order: The variants, in the order of the table's lines.
        identity_of: Result of `identities`.
    """
    variants = [variant for variant in order if variant in differences]
    p_of = {variant: differences[variant]["all"].p for variant in variants}
    adjusted = holm_over_distinct({v: 1.0 if p is None else p for v, p in p_of.items()}, identity_of, reference)
    lines = [[f"minus {reference}", *SHOTS, "p", "p, adjusted", "pairs"]]
    for variant, p in p_of.items():
        scores = differences[variant]
        shots = [format_difference(scores[shot]) for shot in SHOTS]
        tests = ["-", "-"] if p is None else [format_p_value(p), format_p_value(adjusted[variant])]
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
