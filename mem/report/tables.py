"""Tables of scores in the report: accuracy, differences between methods, and all other measurements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from mem.metrics import Interval
from mem.report.collect import StudyResults
from mem.report.differences import (
    MANY_VARIANTS,
    best_on_val,
    difference_table,
    image_difference_table,
    paired_differences,
    reference_variant,
    sorted_variants,
    val_accuracy,
)
from mem.report.page import CaptionedTable
from mem.report.results import SHOTS, ScoreRow, by_variant, score_table, summarise

OTHER_SCORES = ("top5", "balanced", "ece")
ORACLE = tuple(f"oracle_{shot}" for shot in SHOTS)
RECALL = ("group_recall_many", "group_recall_medium", "group_recall_few", "group_by_norm")


def score_tables(results: StudyResults) -> list[CaptionedTable]:
    """Return the tables of scores, the table of methods first."""
    rows = results.rows
    tables = [CaptionedTable("Accuracy on test", accuracy_caption(rows), accuracy_table(rows))]
    if val_accuracy(rows):
        lines = score_table(_sorted_summary(rows, "val", SHOTS))
        tables.append(CaptionedTable("Accuracy on val", val_caption(rows), lines, folded=True))
    tables += _difference_tables(results)
    thresholds = rows[0].thresholds
    tables += [
        CaptionedTable(
            "Top-5 accuracy, balanced accuracy, calibration",
            "On test, in percent. Balanced accuracy is the mean over all classes of their accuracy. ECE is the "
            "expected calibration error with 15 bins of equal width; smaller is better.",
            _rename_columns(score_table(_sorted_summary(rows, "test", OTHER_SCORES)), {"top5": "top-5", "ece": "ECE"}),
        ),
        CaptionedTable(
            "Accuracy with the shot group given",
            "The X-shot oracle of the paper's figure 1b: only the classes of the image's true shot group compete "
            f"({thresholds}).",
            _rename_columns(
                score_table(_sorted_summary(rows, "test", ORACLE)),
                {name: name.removeprefix("oracle_") for name in ORACLE},
            ),
        ),
        CaptionedTable(
            "How often the shot group is recognised",
            "Percentage of the test images of each shot group that are predicted as any class of it. For MEM also how "
            "often the sub-network with the largest norm is that of the image's group.",
            _rename_columns(
                score_table(_sorted_summary(rows, "test", RECALL)),
                {name: name.removeprefix("group_recall_") for name in RECALL} | {"group_by_norm": "by norm"},
            ),
        ),
    ]
    return tables


def accuracy_table(rows: Sequence[ScoreRow]) -> list[list[str]]:
    """Return a table of methods: accuracy on test for each shot group.

    More than `MANY_VARIANTS` methods are sorted by val, and a column shows their accuracy on val.
    """
    summary = _sorted_summary(rows, "test", SHOTS)
    lines = score_table(summary)
    on_val = val_accuracy(rows)
    if len(summary) > MANY_VARIANTS and on_val:
        cells = ["val, all", *[f"{on_val[line[0]]:.2f}" if line[0] in on_val else "-" for line in lines[1:]]]
        lines = [[line[0], cell, *line[1:]] for line, cell in zip(lines, cells, strict=True)]
    return lines


def accuracy_caption(rows: Sequence[ScoreRow]) -> str:
    """Return the caption of the table of methods."""
    repeats = len({row.repeat for row in rows})
    spread = (
        f"Mean and 95 % interval (Student's t) over {repeats} runs."
        if repeats > 1
        else "One run: differences of a few points may be chance."
    )
    selection = (
        "Settings were selected on val. Test was evaluated once, after training."
        if any(row.split == "val" for row in rows)
        else "There is no val split: settings are those of the study file. Test was evaluated once, after training."
    )
    methods = len({row.variant for row in rows})
    sorting = f" {methods} methods, best on val first." if methods > MANY_VARIANTS and val_accuracy(rows) else ""
    return (
        f"Accuracy in percent. Shot groups are defined by training images per class ({rows[0].thresholds}); the "
        f"accuracy of a group is the mean over its classes. {spread} {selection}{sorting}"
    )


def val_caption(rows: Sequence[ScoreRow]) -> str:
    """Return the caption of the table of accuracies on val. The rows must include val."""
    return (
        f"Settings and methods are selected on val, not on test. Best on val: {best_on_val_text(rows)} of all images."
    )


def best_on_val_text(rows: Sequence[ScoreRow]) -> str:
    """Return the method with the highest accuracy on val, and that accuracy."""
    best = best_on_val(rows)
    return "no val split" if best is None else f"{best}, {val_accuracy(rows)[best]:.2f} %"


def paired_difference_table(rows: Sequence[ScoreRow], split: str = "test") -> list[list[str]] | None:
    """Return a table of differences from the reference, paired over runs.

    `None` if there is a single run or a single method, so that nothing can be paired.
    """
    if len({row.repeat for row in rows}) < 2 or len(by_variant(rows, split)) < 2:
        return None
    reference = reference_variant(rows)
    return difference_table(paired_differences(rows, split, reference), reference, sorted_variants(rows))


def _difference_tables(results: StudyResults) -> list[CaptionedTable]:
    rows = results.rows
    if len(by_variant(rows, "test")) < 2:
        return []
    title = "Differences between methods"
    reference = reference_variant(rows)
    if (lines := paired_difference_table(rows)) is not None:
        orders = len({row.order for row in rows})
        shared_images = (
            " Runs of one class order share their images, so intervals over them are rather narrow."
            if orders > 1
            else ""
        )
        caption = (
            f"Each method minus {reference} on the same backbone (same seed and class order), on test, in points: mean "
            "difference with the 95 % interval of the paired t-test over the pairs. p is the p-value for all classes, "
            f"also adjusted for the number of methods (Holm).{shared_images}"
        )
        return [CaptionedTable(title, caption, lines)]
    folders: dict[str, Path] = {variant: folder for (variant, _, _), folder in results.evaluations.items()}
    caption = (
        f"Each method minus {reference} on the same test images of one run, in points: difference with the 95 % "
        "interval by paired bootstrap over images. p is the p-value of McNemar's test for all classes, also adjusted "
        "for the number of methods (Holm). Differences between seeds can be larger."
    )
    return [CaptionedTable(title, caption, image_difference_table(folders, reference, sorted_variants(rows)))]


def _sorted_summary(rows: Sequence[ScoreRow], split: str, columns: Sequence[str]) -> dict[str, Mapping[str, Interval]]:
    summary = summarise(rows, split, columns)
    return {variant: summary[variant] for variant in sorted_variants(rows)}


def _rename_columns(lines: list[list[str]], new_names: Mapping[str, str]) -> list[list[str]]:
    header, *body = lines
    return [[new_names.get(column, column) for column in header], *body]
