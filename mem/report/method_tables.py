"""Tables with one line per method: accuracy by shot group, and differences over runs. `mem results` prints them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mem.metrics import Interval
from mem.report.differences import difference_table, identities, paired_differences
from mem.report.ranking import MANY_VARIANTS, reference_variant, sorted_variants, val_scores
from mem.report.results import SHOTS, ScoreRow, by_variant, score_table, summarise


def accuracy_table(rows: Sequence[ScoreRow]) -> list[list[str]]:
    """Return a table with the accuracy of each method on test, by shot group.

    If there are more than `MANY_VARIANTS` methods, they are sorted by their mean per-class accuracy on val. An extra
    column shows it with its standard error.
    """
    summary = sorted_summary(rows, "test", SHOTS)
    lines = score_table(summary)
    on_val = val_scores(rows)
    if len(summary) > MANY_VARIANTS and on_val:
        cells = ["val, balanced", *[str(on_val[line[0]]) if line[0] in on_val else "-" for line in lines[1:]]]
        lines = [[line[0], cell, *line[1:]] for line, cell in zip(lines, cells, strict=True)]
    return lines


def paired_difference_table(
    rows: Sequence[ScoreRow], split: str = "test", reference: str | None = None
) -> list[list[str]] | None:
    """Return a table of differences from the reference, paired over runs.

    Returns `None` if there is only one run or one method.

    Args:
        rows: Scores of all methods.
        split: The split of the scores.
        reference: The variant that is subtracted. Default: `reference_variant`.

    Raises:
        UserError: There is no variant named `reference`.
    """
    if len({row.repeat for row in rows}) < 2 or len(by_variant(rows, split)) < 2:
        return None
    reference = reference or reference_variant(rows)
    differences = paired_differences(rows, split, reference)
    return difference_table(differences, reference, sorted_variants(rows), identities(rows, split))


def val_table(rows: Sequence[ScoreRow]) -> list[list[str]]:
    """Return a table with the accuracy of each method on val, and the score by which methods are ranked."""
    on_val = val_scores(rows)
    header, *lines = score_table(sorted_summary(rows, "val", SHOTS))
    ranked = [[line[0], str(on_val[line[0]]) if line[0] in on_val else "-", *line[1:]] for line in lines]
    return [[header[0], "balanced", *header[1:]], *ranked]


def sorted_summary(rows: Sequence[ScoreRow], split: str, columns: Sequence[str]) -> dict[str, Mapping[str, Interval]]:
    """Return the result of `summarise` in the order of `sorted_variants`."""
    summary = summarise(rows, split, columns)
    return {variant: summary[variant] for variant in sorted_variants(rows)}
