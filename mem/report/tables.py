"""The tables of scores of a report: accuracy, differences, everything else that was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mem.report.collect import StudyResults
from mem.report.differences import (
    MANY_VARIANTS,
    chosen_by_val,
    difference_table,
    differences,
    image_difference_table,
    ordered,
    reference_of,
    val_means,
)
from mem.report.page import Table
from mem.report.results import SHOTS, Row, by_variant, summarised, table

OTHERS = ("top5", "balanced", "ece")
ORACLE = tuple(f"oracle_{shot}" for shot in SHOTS)
RECALL = ("group_recall_many", "group_recall_medium", "group_recall_few", "group_by_norm")


def score_tables(found: StudyResults) -> list[Table]:
    """The tables of scores, the method table first."""
    rows = found.rows
    made = [Table("Accuracy on test", accuracy_caption(rows), accuracy_table(rows))]
    if val_means(rows):
        lines = table(_in_order(rows, "val", SHOTS))
        made.append(Table("The same on val, where settings are chosen", choice(rows), lines, folded=True))
    made += _difference_tables(found)
    thresholds = rows[0].thresholds
    made += [
        Table(
            "Top-5, balanced accuracy, calibration",
            "On test, in percent. Balanced: mean over all classes of their accuracy. ECE: expected calibration error, "
            "15 bins of equal width; smaller is better.",
            _renamed(table(_in_order(rows, "test", OTHERS)), {"top5": "top-5", "ece": "ECE"}),
        ),
        Table(
            "Accuracy with the shot given",
            "The X-shot oracle of the paper's figure 1b: only the classes of the image's own shot compete "
            f"({thresholds}).",
            _renamed(table(_in_order(rows, "test", ORACLE)), {name: name[7:] for name in ORACLE}),
        ),
        Table(
            "How often the shot is recognised",
            "Test images of each shot that are predicted as some class of it, and, for MEM, how often the largest norm "
            "names the image's group.",
            _renamed(
                table(_in_order(rows, "test", RECALL)),
                {name: name.removeprefix("group_recall_") for name in RECALL} | {"group_by_norm": "by norm"},
            ),
        ),
    ]
    return made


def accuracy_table(rows: Sequence[Row]) -> list[list[str]]:
    """Method x shots on test; where methods are many, in the order of val, which has a column then."""
    summary = _in_order(rows, "test", SHOTS)
    lines = table(summary)
    means = val_means(rows)
    if len(summary) > MANY_VARIANTS and means:
        first = [f"{means[line[0]]:.2f}" if line[0] in means else "-" for line in lines[1:]]
        cells = ["val, all", *first]
        lines = [[line[0], cell, *line[1:]] for line, cell in zip(lines, cells, strict=True)]
    return lines


def accuracy_caption(rows: Sequence[Row]) -> str:
    """What the method table means."""
    repeats = len({row.repeat for row in rows})
    over = (
        f"Mean and 95 % interval (Student's t) over {repeats} runs."
        if repeats > 1
        else "One run: differences of a few points may be chance."
    )
    chosen = (
        "Settings were chosen on val; test was read once, after training."
        if any(row.split == "val" for row in rows)
        else "There is no val split: settings were given, not chosen here; test was read once, after training."
    )
    many = len({row.variant for row in rows})
    sorted_by = f" {many} methods, the best on val first." if many > MANY_VARIANTS and val_means(rows) else ""
    return (
        f"Percentages; shots are {rows[0].thresholds} training images, and each is the mean over its classes. {over} "
        f"{chosen}{sorted_by}"
    )


def choice(rows: Sequence[Row]) -> str:
    """Which method val would choose, in words."""
    best = chosen_by_val(rows)
    if best is None:
        return "There is no val split to choose a method with."
    return f"Highest on val: {best}, {val_means(rows)[best]:.2f} % of all images. A choice is made here, not on test."


def best_on_val(rows: Sequence[Row]) -> str:
    """The method that val would choose, with its score there."""
    best = chosen_by_val(rows)
    return "no val split" if best is None else f"{best}, {val_means(rows)[best]:.2f} %"


def difference_text(rows: Sequence[Row], split: str = "test") -> list[list[str]] | None:
    """Paired differences over runs against the reference; none where nothing can be paired more than once."""
    if len({row.repeat for row in rows}) < 2 or len(by_variant(rows, split)) < 2:
        return None
    reference = reference_of(rows)
    return difference_table(differences(rows, split, reference), reference, ordered(rows))


def _difference_tables(found: StudyResults) -> list[Table]:
    rows = found.rows
    if len(by_variant(rows, "test")) < 2:
        return []
    reference = reference_of(rows)
    if (lines := difference_text(rows)) is not None:
        orders = len({row.order for row in rows})
        shared = (
            " Runs of one class order share their images, so intervals over them are on the small side."
            if orders > 1
            else ""
        )
        caption = (
            f"Each method minus {reference} on the same backbone (same seed and class order), on test, in points: mean "
            "difference and 95 % interval of the paired t-test over the pairs; p is that of all, and adjusted for the "
            f"number of methods (Holm).{shared}"
        )
        return [Table("Differences between methods", caption, lines)]
    folders: dict[str, Path] = {variant: folder for (variant, _, _), folder in found.folders.items()}
    caption = (
        f"Each method minus {reference} on the same test images of one run, in points: 95 % interval by paired "
        "bootstrap over images; p is that of McNemar's test on all, and adjusted for the number of methods (Holm). "
        "Other seeds may differ by more."
    )
    lines = image_difference_table(folders, reference, ordered(rows))
    return [Table("Differences between methods", caption, lines)]


def _in_order(rows: Sequence[Row], split: str, columns: Sequence[str]) -> dict:
    summary = summarised(rows, split, columns)
    return {variant: summary[variant] for variant in ordered(rows)}


def _renamed(lines: list[list[str]], names: dict[str, str]) -> list[list[str]]:
    return [[names.get(cell, cell) for cell in lines[0]], *lines[1:]]


def folded(part: Table) -> Table:
    """The same table, opened by a click."""
    return replace(part, folded=True)
