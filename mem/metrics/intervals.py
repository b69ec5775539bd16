"""Confidence intervals and paired t-tests over the runs of a study. Class orders are the independent units.

All runs of one class order share their training images, and often their val images. Their deviations from the mean over
all class orders are therefore correlated, and more seeds do not replace more class orders. Treating the runs as
independent gives intervals that are too narrow. The runs of each class order are averaged first, and Student's t is
applied to the means of the orders, as for any cluster sample with equally weighted clusters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float64

_ROUNDING = 1e-9
"""Standard error, as a share of the largest score, up to which differences are taken as equal."""
Unit = Literal["class orders", "seeds"]
"""Independent units of an interval. An interval over the seeds of one class order shows the variation of training only.
It says nothing about other class orders."""


@dataclass(frozen=True)
class Interval:
    """A mean and the half-width of its 95 % confidence interval."""

    mean: float
    half_width: float | None
    """Computed with Student's t-distribution over `over`; None for a single run."""
    over: Unit | None = None

    def __str__(self) -> str:
        if math.isnan(self.mean):
            return "-"
        return f"{self.mean:.2f}" if self.half_width is None else f"{self.mean:.2f} ± {self.half_width:.2f}"


@dataclass(frozen=True)
class PairedDifference:
    """Mean difference between two methods over pairs of runs."""

    mean: float
    half_width: float | None
    """Half-width of the 95 % interval; None for a single pair."""
    p: float | None
    """Two-sided p-value of the paired t-test; None for a single pair."""
    pairs: int
    over: Unit | None = None


@dataclass(frozen=True)
class UnitMeans:
    """Means of the independent units of a set of runs."""

    means: Float64[np.ndarray, " units"]
    mean: float
    """Mean over the units."""
    over: Unit

    @property
    def standard_error(self) -> float | None:
        """Standard error of the mean; None for a single unit."""
        units = len(self.means)
        return float(self.means.std(ddof=1)) / math.sqrt(units) if units > 1 else None

    @property
    def half_width(self) -> float | None:
        """Half-width of the 95 % interval (Student's t); None for a single unit."""
        error = self.standard_error
        if error is None:
            return None
        from scipy import special  # not needed by `mem evaluate`, which shall start fast

        return float(special.stdtrit(len(self.means) - 1, 0.975)) * error


def unit_means(values: Sequence[float], orders: Sequence[int] | None = None) -> UnitMeans:
    """Average runs within their class order, or return the values themselves if there is one order.

    Args:
        values: Score of each run.
        orders: Class order of each run; None if all runs have the same.
    """
    numbers = np.asarray(values, dtype=np.float64)
    labels = np.zeros(len(numbers)) if orders is None else np.asarray(orders)
    found = list(dict.fromkeys(labels.tolist()))
    if len(found) < 2:
        return UnitMeans(numbers, float(numbers.mean()) if len(numbers) else math.nan, "seeds")
    by_order = [numbers[labels == order] for order in found]
    means = np.array([part.mean() for part in by_order])
    # With equal numbers of seeds, both means are equal except for rounding, which could change a tie.
    balanced = len({len(part) for part in by_order}) == 1
    return UnitMeans(means, float(numbers.mean() if balanced else means.mean()), "class orders")


def interval(values: Sequence[float], orders: Sequence[int] | None = None) -> Interval:
    """Return the mean and the 95 % confidence interval over class orders or, with one order, over its seeds.

    Args:
        values: Score of each run.
        orders: Class order of each run; None if all runs have the same.
    """
    units = unit_means(values, orders)
    half_width = units.half_width
    return Interval(units.mean, half_width, None if half_width is None else units.over)


def paired_student(
    first: Sequence[float], second: Sequence[float], orders: Sequence[int] | None = None
) -> PairedDifference:
    """Return the mean of first - second over pairs of runs of two methods, with the paired t-test.

    The units of the test are class orders or, with one order, its seeds. If the differences of all units are zero, p
    is 1. If they are equal but not zero, there is neither an interval nor a p-value: accuracies are discrete, so two or
    three units often have equal differences, and the variance between further units is unknown.

    Args:
        first: Scores of the first method.
        second: Scores of the second method on the same backbones and images.
        orders: Class order of each pair; None if all pairs have the same.
    """
    differences = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    units = unit_means(differences.tolist(), orders)
    error, half_width = units.standard_error, units.half_width
    if error is None:
        return PairedDifference(units.mean, None, None, len(differences))
    rounding = _ROUNDING * np.abs([first, second]).max()
    if error <= rounding:
        width, p = (0.0, 1.0) if abs(units.mean) <= rounding else (None, None)
        return PairedDifference(units.mean, width, p, len(differences), units.over)
    from scipy import special

    p = 2 * float(special.stdtr(len(units.means) - 1, -abs(units.mean) / error))
    return PairedDifference(units.mean, half_width, p, len(differences), units.over)
