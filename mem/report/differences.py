"""Which method is ahead of which: paired differences, and the order and choice of methods in tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from mem.errors import UserError
from mem.metrics import (
    PairedDifference,
    holm,
    interval,
    mcnemar,
    paired_bootstrap_shots,
    paired_student,
    shot_accuracy,
)
from mem.metrics.predictions import check_same_images, read_predictions
from mem.report.results import SHOTS, Row, by_variant

MANY_VARIANTS = 12
"""Tables of more variants than this are sorted by val."""
MINUS = "−"


def reference_of(rows: Sequence[Row]) -> str:
    """The variant that others are compared with: cRT, the paper's own reference, else the first."""
    methods = {row.variant: row.method for row in rows}
    if methods.get("crt") == "crt":
        return "crt"
    return next((variant for variant, method in methods.items() if method == "crt"), next(iter(methods)))


def val_means(rows: Sequence[Row]) -> dict[str, float]:
    """Mean accuracy on val of each variant that has one."""
    return {v: interval([row.all for row in mine]).mean for v, mine in by_variant(rows, "val").items() if mine}


def chosen_by_val(rows: Sequence[Row]) -> str | None:
    """The variant with the highest mean accuracy on val (the first of equal ones); none without val."""
    means = val_means(rows)
    return max(means, key=lambda variant: means[variant]) if means else None


def ordered(rows: Sequence[Row]) -> list[str]:
    """The variants as a table should list them: as in the study, or, where they are many, the best on val first."""
    variants = list(dict.fromkeys(row.variant for row in rows))
    means = val_means(rows)
    if len(variants) <= MANY_VARIANTS or not means:
        return variants
    return sorted(variants, key=lambda variant: -means.get(variant, float("-inf")))


def shown(rows: Sequence[Row], limit: int) -> list[str]:
    """The variants that a figure has room for: all, or CE, the reference and the best on val."""
    order = ordered(rows)
    if len(order) <= limit:
        return order
    methods = {row.variant: row.method for row in rows}
    always = {reference_of(rows), *[v for v in order if methods[v] == "ce"][:1]}
    best = [variant for variant in order if variant not in always][: limit - len(always)]
    return [variant for variant in order if variant in always or variant in best]


# --- over runs -----------------------------------------------------------------------------------------


def differences(
    rows: Sequence[Row], split: str, reference: str, columns: Sequence[str] = SHOTS
) -> dict[str, dict[str, PairedDifference]]:
    """For each other variant, its score minus the reference's over the runs that both have (seed and class order)."""
    grouped = by_variant(rows, split)
    if reference not in grouped:
        raise UserError(f"There is no head `{reference}` to compare with; there are: {', '.join(grouped)}")
    base = {row.repeat: row for row in grouped[reference]}
    found: dict[str, dict[str, PairedDifference]] = {}
    for variant, mine in grouped.items():
        pairs = [(row, base[row.repeat]) for row in mine if row.repeat in base]
        if variant != reference and pairs:
            found[variant] = {
                name: paired_student([getattr(a, name) for a, _ in pairs], [getattr(b, name) for _, b in pairs])
                for name in columns
            }
    return found


def difference_table(
    found: Mapping[str, Mapping[str, PairedDifference]], reference: str, order: Iterable[str]
) -> list[list[str]]:
    """Header and lines: method, difference of each shot, p-value of all, its adjusted one, pairs of runs."""
    listed = [variant for variant in order if variant in found]
    p_values = [found[variant]["all"].p for variant in listed]
    adjusted = holm([1.0 if p is None else p for p in p_values])
    lines = [[f"minus {reference}", *SHOTS, "p", "p, adjusted", "pairs"]]
    for variant, p, holms in zip(listed, p_values, adjusted, strict=True):
        scores = found[variant]
        shots = [signed(scores[shot].mean, scores[shot].half_width) for shot in SHOTS]
        tests = ["-", "-"] if p is None else [p_text(p), p_text(holms)]
        lines.append([variant, *shots, *tests, str(scores["all"].pairs)])
    return lines


def signed(mean: float, half_width: float | None = None) -> str:
    """A difference with its sign; `-` where there is none."""
    if np.isnan(mean):
        return "-"
    number = f"{mean:+.2f}".replace("-", MINUS)
    return number if half_width is None else f"{number} ± {half_width:.2f}"


def p_text(p: float) -> str:
    """A p-value with as many digits as it deserves."""
    return "<0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


# --- over the images of one run ------------------------------------------------------------------------


def image_difference_table(folders: Mapping[str, Path], reference: str, order: Iterable[str]) -> list[list[str]]:
    """Differences on the test images of one run: 95 % interval by bootstrap, p-value of McNemar's test.

    Args:
        folders: The evaluate run of each variant.
        reference: The variant that is subtracted.
        order: In which to list the variants.

    Raises:
        UserError: Predictions are missing, or not of the same images.
    """
    about, splits = read_predictions(folders[reference] / "predictions.parquet")
    base = splits["test"]
    shots = np.asarray(about.shot_of_class)
    expected = shot_accuracy(base.predictions, base.labels, shots)
    listed = [variant for variant in order if variant in folders and variant != reference]
    cells: list[list[str]] = []
    p_values: list[float] = []
    for variant in listed:
        other = read_predictions(folders[variant] / "predictions.parquet")[1]["test"]
        check_same_images(other, base, (folders[variant], folders[reference]))
        scores = shot_accuracy(other.predictions, other.labels, shots)
        bounds = paired_bootstrap_shots(other.right, base.right, base.labels, shots)
        cells.append([_bounded(scores[shot] - expected[shot], bounds[shot]) for shot in SHOTS])
        p_values.append(mcnemar(other.right, base.right)[2])
    lines = [[f"minus {reference}", *SHOTS, "p", "p, adjusted"]]
    for variant, differences, p, holms in zip(listed, cells, p_values, holm(p_values), strict=True):
        lines.append([variant, *differences, p_text(p), p_text(holms)])
    return lines


def _bounded(difference: float, bounds: tuple[float, float]) -> str:
    if np.isnan(difference):
        return "-"
    low, high = (signed(100 * bound) for bound in bounds)
    return f"{signed(100 * difference)} ({low} to {high})"
