"""Sections of the report about single classes and images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from mem.report import class_figures
from mem.report.captions import over_runs
from mem.report.chosen_methods import ChosenMethods
from mem.report.class_accuracy import (
    MAX_CLASSES,
    ClassScores,
    class_table,
    kernel_decades,
    worst_classes,
)
from mem.report.collect import StudyResults
from mem.report.confused_classes import confusions, pair_pictures, pair_table
from mem.report.crop_marks import crops_mark
from mem.report.few_shot_gallery import FEW, few_shot_pictures, outcome_table
from mem.report.marked_tables import marked_table
from mem.report.page import CaptionedFigure, CaptionedImage, CaptionedTable, Content, Section
from mem.report.run_predictions import RunPredictions, run_predictions
from mem.report.study_images import StudyImages, study_images
from mem.report.temperature_scaling import calibration_table, change_text
from mem.report.transductive import marked_text, transductive_heads
from mem.runs.dag import Run

NO_IMAGES = "There are no pictures, because the study uses precomputed features."


def class_sections(
    scores: Sequence[ClassScores],
    chosen: ChosenMethods,
    runs: Sequence[Run],
    manifest: Mapping[str, Any],
    results: StudyResults,
) -> list[Section]:
    """Return the sections about single classes and images.

    Args:
        scores: Accuracies of the classes, as `class_scores` returns them.
        chosen: The methods that are shown.
        runs: All runs of the study except the report.
        manifest: Recorded results of the convert run.
        results: Scores of all heads.

    Raises:
        UserError: Predictions are missing or damaged. Missing and damaged images are no error.
    """
    if not scores:
        return []
    predictions = list(run_predictions(results, chosen))
    images = study_images(runs)
    sections = [
        _classes(scores, chosen),
        _confused(predictions, scores, chosen, images),
        *_examples(predictions, scores, chosen, images),
        Section(
            "calibration", "Calibration", change_text(results, chosen.focus), [calibration_table(results, manifest)]
        ),
    ]
    return [_marked(section, results) for section in sections]


def _classes(scores: Sequence[ClassScores], chosen: ChosenMethods) -> Section:
    counts = np.concatenate([of_order.training_images for of_order in scores])
    images = np.concatenate([of_order.test_images for of_order in scores])
    present = images[images > 0]
    per_class = " to ".join(dict.fromkeys(f"{n:,}" for n in (int(present.min()), int(present.max()))))
    error = 50 / float(np.sqrt(present.min()))
    points = "class and class order" if len(scores) > 1 else "class"
    orders = "; the accuracy is the mean over the seeds of the order" if len(scores) > 1 else ""
    figure = CaptionedFigure(
        "classes",
        "Accuracy against training images",
        f"One point per {points}{orders}. Lines: weighted mean over classes with a Gaussian kernel over the logarithm "
        f"of the training images (standard deviation {kernel_decades(counts):.2f} decades). The accuracy axis is "
        f"fitted to the data. A class has {per_class} test images, so the standard error of the accuracy of one class "
        f"and run is up to {error:.1f} points.",
        class_figures.accuracy_by_class(scores, chosen.shown),
    )
    lines = class_table(scores, chosen)
    total = int(sum((of_order.test_images > 0).sum() for of_order in scores))
    limit = f"The {MAX_CLASSES} of {total:,} lines with the lowest accuracy" if total > MAX_CLASSES else "All classes"
    limit += " that have test images" * bool((images == 0).any())
    last = f" The last column is {chosen.focus} minus {chosen.baseline}, in points." if chosen.baseline else ""
    table = CaptionedTable(
        "Accuracy of each class",
        f"{limit}, lowest accuracy of {chosen.focus} first. Accuracy on test in percent, the mean over the seeds; "
        "train and n are the numbers of training images and of test images of a run."
        f"{last} The file classes.csv has every class and method.",
        lines,
    )
    return Section("classes", "Accuracy by class", worst_classes(scores, chosen), [figure, table])


def _confused(
    predictions: Sequence[RunPredictions], scores: Sequence[ClassScores], chosen: ChosenMethods, images: StudyImages
) -> Section:
    found, unreadable = confusions(predictions), images.unreadable
    content: list[Content] = []
    if not found.focus:
        return Section("confused-classes", "Most confused classes", "", content)
    if images.exist:
        content.append(pair_pictures(found, scores, images))
    content.append(pair_table(found, scores, chosen, len(predictions)))
    first = found.ranked(1)[0]
    names = scores[0].names
    intro = (
        f"{chosen.focus} ({chosen.reason}) most often predicts {names[first[1]]} for {names[first[0]]}: "
        f"{found.focus[first]:,} of n = {found.images[first[0]]:,} test images{over_runs(len(predictions))}."
    )
    return Section("confused-classes", "Most confused classes", _with_images(intro, images, unreadable), content)


def _examples(
    predictions: Sequence[RunPredictions], scores: Sequence[ClassScores], chosen: ChosenMethods, images: StudyImages
) -> list[Section]:
    """Return the section with few-shot images, or nothing without another method or few-shot test images."""
    predictions = [run for run in predictions if run.baseline is not None]
    if not predictions or not (predictions[0].shots[predictions[0].focus.labels] == FEW).any():
        return []
    content: list[Content] = []
    unreadable = images.unreadable
    if images.exist:
        content.append(few_shot_pictures(predictions, chosen, scores[0].names, images))
    content.append(outcome_table(predictions, chosen))
    intro = f"{chosen.focus} ({chosen.reason}) and {chosen.baseline} on the same few-shot test images."
    return [Section("examples", "Few-shot successes and failures", _with_images(intro, images, unreadable), content)]


def _with_images(intro: str, images: StudyImages, unreadable_before: int) -> str:
    """Add why pictures are missing to the text of a section, given the number before the section was computed."""
    if not images.exist:
        return f"{intro} {NO_IMAGES}"
    if number := images.unreadable - unreadable_before:
        return f"{intro} Images that are missing, damaged or of other data than the predictions: {number}."
    return intro


def _marked(section: Section, results: StudyResults) -> Section:
    """Mark transductive heads, and the crops in the titles of the elements."""
    heads, mark = transductive_heads(results.rows), crops_mark(results.rows)
    content: list[Content] = []
    for element in section.content:
        if isinstance(element, CaptionedTable):
            element = marked_table(element, heads)
        content.append(element if isinstance(element, CaptionedImage) else replace(element, title=element.title + mark))
    return replace(section, intro=marked_text(section.intro, heads), content=content)
