"""Differences between the methods of a study and one of them, the baseline, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mem.metrics import PairedDifference
from mem.report.captions import interval_units
from mem.report.collect import StudyResults
from mem.report.differences import holm_over_distinct, identities, paired_differences
from mem.report.image_differences import ImageDifference, image_differences
from mem.report.results import SHOTS, ScoreRow, by_variant


@dataclass(frozen=True)
class BoundedDifference:
    """A difference in points and the bounds of its 95 % interval. The bounds are None if there is no interval."""

    mean: float
    low: float | None
    high: float | None

    @property
    def contains_zero(self) -> bool:
        """Whether the interval contains 0, or is unknown."""
        return self.low is None or self.high is None or bool(self.low <= 0 <= self.high)


@dataclass(frozen=True)
class Comparison:
    """Differences of methods from a baseline on test."""

    baseline: str
    differences: Mapping[str, Mapping[str, BoundedDifference]]
    """Difference by variant and shot group, without the baseline."""
    adjusted_p: Mapping[str, float]
    """p-value over all classes by variant, adjusted for the number of methods (Holm)."""
    units: str
    """What the intervals are over, for example `3 class orders`; "" if they are over the test images of one run."""


def compare(results: StudyResults, baseline: str, variants: Sequence[str]) -> Comparison | None:
    """Compare methods with a baseline: over runs or, if there is only one run, over its test images.

    Args:
        results: Results of the study.
        baseline: The variant that is subtracted.
        variants: The variants to compare, in order. p-values are adjusted for these variants.

    Returns:
        None if there is nothing to compare.

    Raises:
        UserError: Predictions are missing or are of different images.
    """
    wanted = [variant for variant in variants if variant != baseline]
    rows = [row for row in results.rows if row.variant in (baseline, *wanted)]
    if not wanted or not by_variant(rows, "test").get(baseline):
        return None
    if units := interval_units(rows):
        return _over_runs(rows, baseline, wanted, units)
    folders: dict[str, Path] = {variant: folder for (variant, _, _), folder in results.evaluations.items()}
    images = image_differences(folders, baseline, wanted)
    return Comparison(
        baseline,
        {variant: {shot: _of_images(difference, shot) for shot in SHOTS} for variant, difference in images.items()},
        {variant: difference.adjusted_p for variant, difference in images.items()},
        "",
    )


def _over_runs(rows: Sequence[ScoreRow], baseline: str, wanted: Sequence[str], units: str) -> Comparison:
    paired = paired_differences(rows, "test", baseline)
    p_of = {variant: 1.0 if (p := paired[variant]["all"].p) is None else p for variant in wanted if variant in paired}
    return Comparison(
        baseline,
        {variant: {shot: _of_runs(paired[variant][shot]) for shot in SHOTS} for variant in p_of},
        holm_over_distinct(p_of, identities(rows, "test"), baseline),
        units,
    )


def _of_runs(difference: PairedDifference) -> BoundedDifference:
    half = difference.half_width
    if half is None:
        return BoundedDifference(difference.mean, None, None)
    return BoundedDifference(difference.mean, difference.mean - half, difference.mean + half)


def _of_images(difference: ImageDifference, shot: str) -> BoundedDifference:
    low, high = difference.bounds[shot]
    return BoundedDifference(100 * difference.means[shot], 100 * low, 100 * high)
