"""Accuracy of each class on test against its number of training images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from mem import config
from mem.longtail import SHOT_NAMES, shot_groups
from mem.metrics.predictions import PREDICTIONS_FILE, read_predictions
from mem.report.chosen_methods import ChosenMethods
from mem.report.collect import StudyResults
from mem.report.ranking import sorted_variants

MAX_CLASSES = 100
"""Maximum number of lines of the table on the page. `classes.csv` has all."""
WORST = 3
KERNEL_WIDTH = 0.15
"""Standard deviation of the smoothing kernel, as a share of the range of log10 of the numbers of training images."""
CURVE_POINTS = 60


@dataclass(frozen=True)
class ClassScores:
    """Accuracies of the classes of one class order."""

    order: int
    names: Sequence[str]
    training_images: Int64[np.ndarray, " classes"]
    shots: Int64[np.ndarray, " classes"]
    """Shot group of each class: 0 many, 1 medium, 2 few."""
    test_images: Int64[np.ndarray, " classes"]
    accuracy: Mapping[str, Float64[np.ndarray, " classes"]]
    """Accuracy of each class in percent, by variant: the mean over seeds. NaN without test images."""


def class_scores(study: config.Study, manifest: Mapping[str, Any], results: StudyResults) -> list[ClassScores]:
    """Return the accuracies of each class order.

    Args:
        study: The study.
        manifest: Recorded results of the convert run, with the names of the classes.
        results: Results of the study.
    """
    scores: list[ClassScores] = []
    if not results.class_accuracies:
        return scores
    for order, counts in results.training_images.items():
        accuracy = {
            variant: np.mean(results.class_accuracies[variant, order], axis=0)
            for variant in sorted_variants(results.rows)
            if (variant, order) in results.class_accuracies
        }
        folder = next(path for (_, found, _), path in results.evaluations.items() if found == order)
        labels = read_predictions(folder / PREDICTIONS_FILE)[1]["test"].labels
        images = np.bincount(labels, minlength=len(counts)).astype(np.int64)
        groups = shot_groups(counts, study.shots)
        scores.append(ClassScores(order, manifest["classes"], counts, groups, images, accuracy))
    return scores


def all_classes(scores: Sequence[ClassScores]) -> list[list[str]]:
    """Return the lines of `classes.csv`: one for each class and class order, with the accuracy of every method."""
    variants = list(scores[0].accuracy) if scores else []
    lines = [["order", "class", "name", "shot", "training_images", "test_images", *variants]]
    for of_order in scores:
        for k, name in enumerate(of_order.names):
            numbers = [str(of_order.training_images[k]), str(of_order.test_images[k])]
            cells = [f"{of_order.accuracy[v][k]:.4f}" if v in of_order.accuracy else "nan" for v in variants]
            lines.append([str(of_order.order), str(k), name, SHOT_NAMES[of_order.shots[k]], *numbers, *cells])
    return lines


def class_table(scores: Sequence[ClassScores], chosen: ChosenMethods) -> list[list[str]]:
    """Return the table of classes for the page, lowest accuracy of the focus first, with at most `MAX_CLASSES` lines.

    The last column is the focus minus the baseline, in points.
    """
    several = len(scores) > 1
    header = ["class", *["order"] * several, "shot", "train", "n", *chosen.shown]
    lines = [[*header, *([f"minus {chosen.baseline}"] if chosen.baseline else [])]]
    listed = [(of_order, k) for of_order in scores for k in range(len(of_order.names)) if of_order.test_images[k]]
    listed.sort(key=lambda item: (item[0].accuracy[chosen.focus][item[1]], item[0].training_images[item[1]]))
    for of_order, k in listed[:MAX_CLASSES]:
        accuracy = of_order.accuracy
        line = [of_order.names[k], *[str(of_order.order)] * several, SHOT_NAMES[of_order.shots[k]]]
        line += [f"{of_order.training_images[k]:,}", f"{of_order.test_images[k]:,}"]
        line += [f"{accuracy[variant][k]:.1f}" for variant in chosen.shown]
        if chosen.baseline:
            line.append(
                f"{accuracy[chosen.focus][k] - accuracy[chosen.baseline][k]:+.1f}".replace("-", "\N{MINUS SIGN}")
            )
        lines.append(line)
    return lines


def worst_classes(scores: Sequence[ClassScores], chosen: ChosenMethods) -> str:
    """Return a sentence that names the classes with the lowest accuracy of the focus: the mean over all runs."""
    means = mean_over_orders(scores, chosen.focus)
    ranked = [k for k in np.argsort(means, kind="stable").tolist() if not np.isnan(means[k])][:WORST]
    if not ranked:
        return "No class has test images in all class orders."
    named = ", ".join(
        f"{scores[0].names[k]} ({means[k]:.1f} %, n = {image_range(scores, k, test=True)} test images, "
        f"{image_range(scores, k)} training images)"
        for k in ranked
    )
    number = {1: "worst class", 2: "worst two classes", 3: "worst three classes"}[len(ranked)]
    are = "is" if len(ranked) == 1 else "are"
    return f"The {number} of {chosen.focus} ({chosen.reason}) on test {are} {named}."


def mean_over_orders(scores: Sequence[ClassScores], variant: str) -> Float64[np.ndarray, " classes"]:
    """Return the accuracy of each class, averaged over class orders; NaN without test images."""
    return np.mean([of_order.accuracy[variant] for of_order in scores], axis=0)


def image_range(scores: Sequence[ClassScores], k: int, *, test: bool = False) -> str:
    """Return the number of training or test images of a class, as a range if it differs between class orders."""
    numbers = [int((of_order.test_images if test else of_order.training_images)[k]) for of_order in scores]
    return " to ".join(dict.fromkeys(f"{number:,}" for number in (min(numbers), max(numbers))))


def smooth_curve(
    training_images: np.ndarray, accuracies: np.ndarray
) -> tuple[Float64[np.ndarray, " points"], Float64[np.ndarray, " points"]]:
    """Return a smooth line through the accuracies of classes: a weighted mean with a Gaussian kernel over log10 images.

    Its standard deviation is `KERNEL_WIDTH` times the range of log10 of the numbers of training images (Nadaraya 1964,
    Watson 1964). Classes without test or training images have no influence.

    Returns:
        Numbers of training images at equal distances on a logarithmic axis, and the smooth accuracies.
    """
    used = ~np.isnan(accuracies) & (training_images > 0)
    x, y = np.log10(training_images[used]), accuracies[used]
    if not len(x):
        return np.zeros(0), np.zeros(0)
    width = kernel_decades(training_images)
    points = np.linspace(x.min(), x.max(), CURVE_POINTS)
    weights = np.exp(-0.5 * ((points[:, None] - x) / width) ** 2)
    return 10**points, weights @ y / weights.sum(axis=1)


def kernel_decades(training_images: np.ndarray) -> float:
    """Return the standard deviation of the smoothing kernel in decades of training images."""
    logs = np.log10(training_images[training_images > 0])
    return max(KERNEL_WIDTH * float(logs.max() - logs.min()), 0.05) if len(logs) else 0.05
