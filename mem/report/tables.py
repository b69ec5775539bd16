"""Score tables in the report: accuracy, differences between methods, and all other metrics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from mem.report.captions import (
    SEVERAL_METHODS,
    coverage,
    equal_results,
    interval_units,
    same_backbone,
    several_finetunings,
    val_error,
)
from mem.report.chosen_heads import CAPTION as CHOSEN_HEADS
from mem.report.chosen_heads import chosen_finetunings, chosen_head_table
from mem.report.collect import StudyResults
from mem.report.differences import equal_sets, identities
from mem.report.image_differences import image_difference_table
from mem.report.main_table import EMPHASIS_RULE, best_cells, image_bounds, main_table
from mem.report.method_tables import paired_difference_table, sorted_summary, val_table
from mem.report.page import CaptionedTable
from mem.report.ranking import MANY_VARIANTS, best_on_val_text, reference_variant, sorted_variants, val_scores
from mem.report.results import SHOTS, ScoreRow, by_variant, is_refitted, score_table, summarise

OTHER_SCORES = ("top5", "balanced", "ece")
ORACLE = tuple(f"oracle_{shot}" for shot in SHOTS)
EXPERTS_USED = tuple(f"experts_used_{shot}" for shot in SHOTS)
RECALL = ("group_recall_many", "group_recall_medium", "group_recall_few", "group_recall_all")


def accuracy_tables(results: StudyResults) -> list[CaptionedTable]:
    """Return the accuracy of each method on test and on val."""
    rows = results.rows
    lines = main_table(results)
    emphasis = best_cells(results, lines)
    caption = accuracy_caption(rows)
    if image_bounds(results):
        caption += " Brackets: 95 % bootstrap intervals over the test images, stratified by class."
    caption += f" {EMPHASIS_RULE}" if emphasis else ""
    tables = [CaptionedTable("Accuracy on test", caption, lines, emphasis=emphasis)]
    if val_scores(rows):
        tables.append(CaptionedTable("Accuracy on val", val_caption(rows), val_table(rows), folded=True))
    return tables


def shot_group_tables(results: StudyResults) -> list[CaptionedTable]:
    """Return the oracle accuracy, and how often a class of the right shot group is predicted."""
    rows = results.rows
    folded = len(by_variant(rows, "test")) > MANY_VARIANTS
    return [
        CaptionedTable(
            "Oracle accuracy",
            "The X-shot oracle of the paper's figure 1b: predictions are restricted to the classes of the image's true "
            f"shot group ({rows[0].thresholds}).",
            _rename_columns(
                score_table(sorted_summary(rows, "test", ORACLE)),
                {name: name.removeprefix("oracle_") for name in ORACLE},
            ),
            folded,
        ),
        CaptionedTable(
            "Recall of shot groups",
            "Percentage of each shot group's test images that are predicted as any class of this group.",
            _rename_columns(
                score_table(sorted_summary(rows, "test", RECALL)),
                {name: name.removeprefix("group_recall_") for name in RECALL},
            ),
            folded,
        ),
    ]


def other_score_tables(results: StudyResults, calibration: str = "") -> list[CaptionedTable]:
    """Return the scores that are no accuracy by shot group.

    Args:
        results: Results of the study.
        calibration: Sentence that the caption of the calibration error ends with, see `calibration_of_sigmoids`.
    """
    rows = results.rows
    tables = [
        CaptionedTable(
            "Top-5 accuracy, balanced accuracy, calibration",
            "Scores on test, in percent. Balanced accuracy is the mean of the per-class accuracies. ECE is the "
            f"expected calibration error with 15 bins of equal width; smaller is better.{calibration}",
            _rename_columns(score_table(sorted_summary(rows, "test", OTHER_SCORES)), {"top5": "top-5", "ece": "ECE"}),
            folded=len(by_variant(rows, "test")) > MANY_VARIANTS,
        )
    ]
    if (lines := experts_used_table(rows)) is not None:
        caption = (
            "Mean number of experts that RIDE's router uses for the test images of each shot group. The other experts "
            "are not needed for the prediction. Here, all experts are computed before the router decides."
        )
        tables.append(CaptionedTable("Number of experts used", caption, lines))
    return tables


def experts_used_table(rows: Sequence[ScoreRow]) -> list[list[str]] | None:
    """Return a table of the mean number of experts that each router uses on test, or None without routers."""
    routed = [row for row in rows if row.split == "test" and not math.isnan(row.experts_used_all)]
    if not routed:
        return None
    names = {name: name.removeprefix("experts_used_") for name in EXPERTS_USED}
    return _rename_columns(score_table(summarise(routed, "test", EXPERTS_USED)), names)


def accuracy_caption(rows: Sequence[ScoreRow]) -> str:
    """Return the caption of the table of methods."""
    units = interval_units(rows)
    spread = f"Values are the mean and 95 % interval (Student's t) over {units}. " if units else ""
    if is_refitted(rows):
        selection = (
            "Settings were selected on held-out training images; then every head was trained on all training images "
            "and evaluated once on test."
        )
    elif any(row.split == "val" for row in rows):
        selection = "Settings were selected on val. Test was evaluated once, after training."
    else:
        selection = (
            "There is no val split; settings are those in the study file. Test was evaluated once, after training."
        )
    methods = len({row.variant for row in rows})
    sorting = (
        f" The {methods} methods are sorted, best on val first (mean per-class accuracy, with its standard error)."
        f"{val_error(rows)}"
        if methods > MANY_VARIANTS and val_scores(rows)
        else ""
    )
    return (
        f"Accuracy in percent. Shot groups are defined by the number of training images per class "
        f"({rows[0].thresholds}); the accuracy of a group is the mean over its classes. {spread}{coverage(rows)} "
        f"{selection}{sorting}"
    )


def val_caption(rows: Sequence[ScoreRow]) -> str:
    """Return the caption for the table of accuracies on val. The rows must include val."""
    held_out = (
        "Val are held-out training images; the scores are of heads that were trained without them. "
        if is_refitted(rows)
        else ""
    )
    return held_out + (
        "Settings and methods are selected on val, not on test, by the balanced accuracy: the mean of the per-class "
        "accuracies, so that a long-tailed val split gives every class the same weight. SE is its standard error over "
        "class orders or, with one class order, over val images and seeds. Paired differences between methods vary "
        f"less. Best on val: {best_on_val_text(rows)}."
    )


def difference_tables(results: StudyResults) -> list[CaptionedTable]:
    """Return the differences between each method and the reference, and between methods chosen in each run."""
    rows = results.rows
    if len(by_variant(rows, "test")) < 2:
        return []
    title = "Differences between methods"
    reference = reference_variant(rows)
    if (lines := paired_difference_table(rows)) is not None:
        caption = (
            f"Each method minus {reference} {same_backbone(rows, reference)}, on test, in points."
            f"{several_finetunings(rows, reference)} Values are mean differences with 95 % intervals of the paired "
            f"t-test over {interval_units(rows)}. p is the p-value for all classes, also adjusted for the number of "
            f"methods (Holm). {coverage(rows)} {SEVERAL_METHODS}{equal_results(equal_sets(identities(rows, 'test')))}"
        )
        tables = [CaptionedTable(title, caption, _p_values_first(lines))]
        if (chosen := chosen_head_table(rows)) is not None:
            heading = "MEM minus other methods, each chosen on val in each run"
            caption = f"{CHOSEN_HEADS}{chosen_finetunings(rows)} {coverage(rows)}"
            tables.append(CaptionedTable(heading, caption, chosen))
        return tables
    folders: dict[str, Path] = {variant: folder for (variant, _, _), folder in results.evaluations.items()}
    caption = (
        f"Each method minus {reference} on the same test images of one class order and seed, in points."
        f"{several_finetunings(rows, reference)} Intervals are 95 % paired bootstrap intervals over test images, "
        "stratified by class. p is the p-value of McNemar's test for all "
        "classes, also adjusted for the number of methods (Holm). Both cover the sampling of test images only: "
        "differences between seeds and class orders can be larger. Methods with equal predictions are one hypothesis."
    )
    lines = image_difference_table(folders, reference, sorted_variants(rows))
    return [CaptionedTable(title, caption, _p_values_first(lines))]


def _p_values_first(lines: Sequence[Sequence[str]]) -> list[list[str]]:
    """Move the difference over all classes and its p-values before those of shot groups, where a phone shows them."""
    header = lines[0]
    first = [header[0], "all", "p", "p, adjusted"]
    order = [header.index(name) for name in [*first, *(name for name in header if name not in first)]]
    return [[line[column] for column in order] for line in lines]


def _rename_columns(lines: list[list[str]], new_names: Mapping[str, str]) -> list[list[str]]:
    header, *body = lines
    return [[new_names.get(column, column) for column in header], *body]
