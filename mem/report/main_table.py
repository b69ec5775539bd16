"""The main table of the report: the accuracy of each method on test, with intervals, and the best values marked."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from mem.report.captions import interval_units
from mem.report.collect import StudyResults
from mem.report.method_tables import accuracy_table
from mem.report.results import SHOTS, inductive, summarise
from mem.report.table_formats import Emphasis

EMPHASIS_RULE = (
    "Bold: the highest value of a column. Underlined: values within the 95 % interval of the highest. Both describe "
    "test; methods are chosen on val."
)

Bounds = Mapping[str, Mapping[str, tuple[float, float]]]
"""Bounds of an interval by variant and shot group."""


def main_table(results: StudyResults) -> list[list[str]]:
    """Return `accuracy_table` with intervals. Those of a single run are over its test images."""
    lines = accuracy_table(results.rows)
    bounds = image_bounds(results)
    if not bounds:
        return lines
    header, *body = lines
    return [header, *([_with_bounds(name, cell, bounds[line[0]]) for name, cell in zip(header, line, strict=True)]
                      for line in body)]  # fmt: skip


def image_bounds(results: StudyResults) -> Bounds:
    """Return the intervals over the test images of a study with one run; empty if there are several or none."""
    if interval_units(results.rows):
        return {}
    bounds = {variant: intervals for (variant, _, _), intervals in results.image_intervals.items()}
    return bounds if bounds and all(bounds.values()) else {}


def _with_bounds(column: str, cell: str, bounds: Mapping[str, tuple[float, float]]) -> str:
    if column not in SHOTS or math.isnan(bounds[column][0]):
        return cell
    low, high = bounds[column]
    return f"{cell} [{low:.1f}–{high:.1f}]"


def best_cells(results: StudyResults, lines: Sequence[Sequence[str]]) -> dict[tuple[int, int], Emphasis]:
    """Return the emphasis of the cells of `main_table`.

    Transductive heads are left out, because they are not comparable with the others.
    """
    summary = summarise(inductive(results.rows), "test")
    bounds = image_bounds(results)
    marked: dict[tuple[int, int], Emphasis] = {}
    if len(summary) < 2:
        return marked
    for shot in SHOTS:
        means = {v: scores[shot].mean for v, scores in summary.items() if not math.isnan(scores[shot].mean)}
        if not means:
            continue
        best = max(means, key=lambda variant: means[variant])
        half = summary[best][shot].half_width
        low = bounds[best][shot][0] if bounds else means[best] - (half or 0.0)
        for row, line in enumerate(lines[1:], 1):
            if (mean := means.get(line[0])) is not None and mean >= low:
                marked[row, lines[0].index(shot)] = "best" if mean == means[best] else "near"
    return marked
