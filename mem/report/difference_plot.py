"""The figure on the report's first screen: the difference of each method from a baseline, by shot group.

The figure is an HTML table, not an image, so that it is readable on a phone and its numbers can be copied.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from mem.metrics import Interval
from mem.report.comparison import BoundedDifference, Comparison
from mem.report.differences import MINUS_SIGN, format_signed
from mem.report.results import SHOTS

TICK_STEPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50)
"""Distances between the numbers on the axis in points."""
MAX_TICKS = 3


@dataclass(frozen=True)
class PlotCell:
    """One difference. Positions are in percent of the width of the cell."""

    text: str
    """The difference in points; `-` without images."""
    interval: str
    """The interval in words, for a tooltip and screen readers."""
    dot: float | None
    """Position of the difference; None if there is nothing to plot."""
    start: float
    width: float
    """Position of the lower bound of the interval, and the width of the interval."""
    excludes_zero: bool


@dataclass(frozen=True)
class PlotRow:
    """The differences of one method."""

    name: str
    cells: Sequence[PlotCell]
    is_best: bool
    """Whether the method is the best on val."""


@dataclass(frozen=True)
class Tick:
    """A number on the axis and its position in percent."""

    position: float
    text: str


@dataclass(frozen=True)
class DifferencePlot:
    """Differences from one baseline."""

    baseline: str
    scores: Sequence[str]
    """Accuracy of the baseline by shot group, with its unit."""
    rows: Sequence[PlotRow]
    zero: float
    """Position of the difference 0 in percent of the width of a cell."""
    ticks: Sequence[Tick]
    columns: Sequence[str] = SHOTS


def difference_plot(
    comparison: Comparison, accuracy: Mapping[str, Interval], best: str | None, names: Mapping[str, str]
) -> DifferencePlot:
    """Return the figure for one baseline.

    Args:
        comparison: Differences from the baseline, in the order of the rows.
        accuracy: Accuracy of the baseline by shot group.
        best: The method that is best on val.
        names: Name of each method in the figure.
    """
    low, high = _range(comparison.differences.values())

    def position(value: float) -> float:
        return round(100 * (value - low) / (high - low), 2)

    def cell(difference: BoundedDifference) -> PlotCell:
        if math.isnan(difference.mean):
            return PlotCell("-", "no images", None, 0, 0, False)
        start = difference.mean if difference.low is None else difference.low
        end = difference.mean if difference.high is None else difference.high
        return PlotCell(
            format_signed(difference.mean),
            interval_text(difference),
            position(difference.mean),
            position(start),
            round(position(end) - position(start), 2),
            not difference.contains_zero,
        )

    return DifferencePlot(
        baseline=names[comparison.baseline],
        scores=["-" if math.isnan(mean := accuracy[shot].mean) else f"{mean:.2f} %" for shot in SHOTS],
        rows=[
            PlotRow(names[variant], [cell(differences[shot]) for shot in SHOTS], variant == best)
            for variant, differences in comparison.differences.items()
        ],
        zero=position(0.0),
        ticks=[Tick(position(value), _tick_text(value)) for value in _ticks(low, high)],
    )


def interval_text(difference: BoundedDifference) -> str:
    """Return the interval in words, for example `95 % interval −0.80 to +2.00`."""
    if difference.low is None or difference.high is None:
        return "no interval"
    return f"95 % interval {format_signed(difference.low)} to {format_signed(difference.high)}"


def _range(rows: Iterable[Mapping[str, BoundedDifference]]) -> tuple[float, float]:
    """Return the limits of the axis, which contain 0 and all intervals."""
    values = [
        value
        for differences in rows
        for difference in differences.values()
        for value in (difference.mean, difference.low, difference.high)
        if value is not None and not math.isnan(value)
    ]
    low, high = min([0.0, *values]), max([0.0, *values])
    margin = 0.06 * (high - low) or 1.0
    return low - margin, high + margin


def _ticks(low: float, high: float) -> list[float]:
    step = next((step for step in TICK_STEPS if (high - low) / step <= MAX_TICKS), TICK_STEPS[-1])
    return [step * k for k in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _tick_text(value: float) -> str:
    return "0" if value == 0 else f"{value:+g}".replace("-", MINUS_SIGN)
