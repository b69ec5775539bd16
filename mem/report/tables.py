"""Score tables in the report: accuracy, differences between methods, and all other metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from mem.report.collect import StudyResults
from mem.report.differences import MANY_VARIANTS, best_on_val, reference_variant, sorted_variants, val_accuracy
from mem.report.image_differences import image_difference_table
from mem.report.method_tables import accuracy_table, paired_difference_table, sorted_summary
from mem.report.page import CaptionedTable
from mem.report.results import SHOTS, ScoreRow, by_variant, score_table

OTHER_SCORES = ("top5", "balanced", "ece")
ORACLE = tuple(f"oracle_{shot}" for shot in SHOTS)
RECALL = ("group_recall_many", "group_recall_medium", "group_recall_few", "group_by_norm")


def score_tables(results: StudyResults) -> list[CaptionedTable]:
    """Return the score tables, starting with the table of methods."""
    rows = results.rows
    tables = [CaptionedTable("Accuracy on test", accuracy_caption(rows), accuracy_table(rows))]
    if val_accuracy(rows):
        lines = score_table(sorted_summary(rows, "val", SHOTS))
        tables.append(CaptionedTable("Accuracy on val", val_caption(rows), lines, folded=True))
    tables += _difference_tables(results)
    thresholds = rows[0].thresholds
    tables += [
        CaptionedTable(
            "Top-5 accuracy, balanced accuracy, calibration",
            "Scores on test, in percent. Balanced accuracy is the mean of the per-class accuracies. ECE is the "
            "expected calibration error with 15 bins of equal width; smaller is better.",
            _rename_columns(score_table(sorted_summary(rows, "test", OTHER_SCORES)), {"top5": "top-5", "ece": "ECE"}),
        ),
        CaptionedTable(
            "Oracle accuracy",
            "The X-shot oracle of the paper's figure 1b: predictions are restricted to the classes of the image's true "
            f"shot group ({thresholds}).",
            _rename_columns(
                score_table(sorted_summary(rows, "test", ORACLE)),
                {name: name.removeprefix("oracle_") for name in ORACLE},
            ),
        ),
        CaptionedTable(
            "Recall of shot groups",
            "Percentage of each shot group's test images that are predicted as any class of this group. For MEM, the "
            "last column is the percentage of images whose true group has the largest sub-network norm. MEM heads that "
            "differ only in the fusion or the classifier have nearly the same value, because almost only the "
            "regularisation objective trains the sub-networks.",
            _rename_columns(
                score_table(sorted_summary(rows, "test", RECALL)),
                {name: name.removeprefix("group_recall_") for name in RECALL} | {"group_by_norm": "by norm"},
            ),
        ),
    ]
    return tables


def accuracy_caption(rows: Sequence[ScoreRow]) -> str:
    """Return the caption of the table of methods."""
    repeats = len({row.repeat for row in rows})
    spread = (
        f"Values are the mean and 95 % interval (Student's t) over {repeats} runs."
        if repeats > 1
        else "The study has one run, so differences of a few points may be due to chance."
    )
    selection = (
        "Settings were selected on val. Test was evaluated once, after training."
        if any(row.split == "val" for row in rows)
        else "There is no val split; settings are those in the study file. Test was evaluated once, after training."
    )
    methods = len({row.variant for row in rows})
    sorting = (
        f" The {methods} methods are sorted, best on val first."
        if methods > MANY_VARIANTS and val_accuracy(rows)
        else ""
    )
    return (
        f"Accuracy in percent. Shot groups are defined by the number of training images per class "
        f"({rows[0].thresholds}); the accuracy of a group is the mean over its classes. {spread} {selection}{sorting}"
    )


def val_caption(rows: Sequence[ScoreRow]) -> str:
    """Return the caption for the table of accuracies on val. The rows must include val."""
    return (
        f"Settings and methods are selected on val, not on test. Best on val over all images: {best_on_val_text(rows)}."
    )


def best_on_val_text(rows: Sequence[ScoreRow]) -> str:
    """Describe the method with the highest accuracy on val, including this accuracy."""
    best = best_on_val(rows)
    return "no val split" if best is None else f"{best}, {val_accuracy(rows)[best]:.2f} %"


def _difference_tables(results: StudyResults) -> list[CaptionedTable]:
    rows = results.rows
    if len(by_variant(rows, "test")) < 2:
        return []
    title = "Differences between methods"
    reference = reference_variant(rows)
    if (lines := paired_difference_table(rows)) is not None:
        orders = len({row.order for row in rows})
        shared_images = (
            " Runs of one class order share their images, so intervals over these runs may be too narrow."
            if orders > 1
            else ""
        )
        caption = (
            f"Each method minus {reference} on the same backbone (same seed and class order), on test, in points. "
            "Values are mean differences with 95 % intervals of the paired t-test. p is the p-value for all classes, "
            f"also adjusted for the number of methods (Holm).{shared_images}"
        )
        return [CaptionedTable(title, caption, lines)]
    folders: dict[str, Path] = {variant: folder for (variant, _, _), folder in results.evaluations.items()}
    caption = (
        f"Each method minus {reference} on the same test images of one run, in points. Intervals are 95 % paired "
        "bootstrap intervals over images. p is the p-value of McNemar's test for all classes, also adjusted "
        "for the number of methods (Holm). Differences between seeds can be larger."
    )
    return [CaptionedTable(title, caption, image_difference_table(folders, reference, sorted_variants(rows)))]


def _rename_columns(lines: list[list[str]], new_names: Mapping[str, str]) -> list[list[str]]:
    header, *body = lines
    return [[new_names.get(column, column) for column in header], *body]
