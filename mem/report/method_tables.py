"""Tables with one line per method: accuracy by shot group, and differences over runs. `mem results` prints them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mem.metrics import Interval
from mem.report.differences import (
    MANY_VARIANTS,
    difference_table,
    paired_differences,
    reference_variant,
    sorted_variants,
    val_accuracy,
)
from mem.report.results import SHOTS, ScoreRow, by_variant, score_table, summarise


def accuracy_table(rows: Sequence[ScoreRow]) -> list[list[str]]:
    """Return a table with the accuracy of each method on test, by shot group.

    If there are more than `MANY_VARIANTS` methods, they are sorted by accuracy on val, which an extra column shows.
    """
    summary = sorted_summary(rows, "test", SHOTS)
    lines = score_table(summary)
    on_val = val_accuracy(rows)
    if len(summary) > MANY_VARIANTS and on_val:
        cells = ["val, all", *[f"{on_val[line[0]]:.2f}" if line[0] in on_val else "-" for line in lines[1:]]]
        lines = [[line[0], cell, *line[1:]] for line, cell in zip(lines, cells, strict=True)]
    return lines


def paired_difference_table(rows: Sequence[ScoreRow], split: str = "test") -> list[list[str]] | None:
    """Return a table of differences from the reference, paired over runs.

    Returns `None` if there is only one run or one method.
    """
    if len({row.repeat for row in rows}) < 2 or len(by_variant(rows, split)) < 2:
        return None
    reference = reference_variant(rows)
    return difference_table(paired_differences(rows, split, reference), reference, sorted_variants(rows))


def sorted_summary(rows: Sequence[ScoreRow], split: str, columns: Sequence[str]) -> dict[str, Mapping[str, Interval]]:
    """Return the result of `summarise` in the order of `sorted_variants`."""
    summary = summarise(rows, split, columns)
    return {variant: summary[variant] for variant in sorted_variants(rows)}
