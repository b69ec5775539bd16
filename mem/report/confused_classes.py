"""The pairs of classes that a method confuses most often, with pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from mem.longtail import SHOT_NAMES
from mem.metrics.predictions import Predictions
from mem.report.captions import over_runs
from mem.report.chosen_methods import ChosenMethods
from mem.report.class_accuracy import ClassScores, image_range
from mem.report.page import CaptionedTable
from mem.report.pictures import CaptionedPictures, Picture, PictureGroup
from mem.report.run_predictions import RunPredictions
from mem.report.study_images import StudyImages

MAX_PAIRS = 20
"""Maximum number of pairs in the table."""
PAIRS_WITH_PICTURES = 6
ERRORS, EXAMPLES = 5, 2
"""Number of confused test images, and of training images of the predicted class, for each pair."""
Pair = tuple[int, int]
"""True class and predicted class."""


@dataclass
class Confusions:
    """Errors of the focus and the baseline, summed over runs."""

    focus: Counter[Pair] = field(default_factory=Counter)
    baseline: Counter[Pair] = field(default_factory=Counter)
    images: Counter[int] = field(default_factory=Counter)
    """Number of test images of each class, summed over runs."""
    confused: dict[Pair, dict[int, list[int]]] = field(default_factory=dict)
    """For each pair: the confused test images of each class order, without repetition."""
    names: dict[tuple[int, int], str] = field(default_factory=dict)
    """Name of each confused test image, by class order and position, if known."""

    def ranked(self, number: int) -> list[Pair]:
        """Return the most frequent pairs: by count, then by share of the class's images, then by class number."""

        def position(pair: Pair) -> tuple[int, float, Pair]:
            return -self.focus[pair], -self.focus[pair] / self.images[pair[0]], pair

        return sorted(self.focus, key=position)[:number]


def confusions(runs: Sequence[RunPredictions]) -> Confusions:
    """Count how often each class is predicted as each other class."""
    found = Confusions()
    for run in runs:
        found.images.update(Counter(run.focus.labels.tolist()))
        found.focus.update(_errors(run.focus))
        if run.baseline is not None:
            found.baseline.update(_errors(run.baseline))
    frequent = set(found.ranked(PAIRS_WITH_PICTURES))
    for run in runs:
        wrong = np.flatnonzero(~run.focus.correct)
        for i, label, predicted in zip(
            wrong.tolist(), run.focus.labels[wrong].tolist(), run.focus.predictions[wrong].tolist(), strict=True
        ):
            if (label, predicted) in frequent:
                of_order = found.confused.setdefault((label, predicted), {}).setdefault(run.order, [])
                if i not in of_order:
                    of_order.append(i)
                    if run.focus.names is not None:
                        found.names[run.order, i] = run.focus.names[i]
    return found


def _errors(predictions: Predictions) -> Counter[Pair]:
    wrong = ~predictions.correct
    return Counter(zip(predictions.labels[wrong].tolist(), predictions.predictions[wrong].tolist(), strict=True))


def pair_table(found: Confusions, scores: Sequence[ClassScores], chosen: ChosenMethods, runs: int) -> CaptionedTable:
    """Return the table of the most confused pairs.

    Args:
        found: The counted errors.
        scores: Accuracies of the classes, with their names and training images.
        chosen: The methods.
        runs: Number of runs that the counts are sums of.
    """
    names = scores[0].names
    header = ["true class", "predicted", "errors", "n", "share", *([chosen.baseline] if chosen.baseline else [])]
    lines = [[*header, "training images"]]
    for label, predicted in found.ranked(MAX_PAIRS):
        errors, n = found.focus[label, predicted], found.images[label]
        line = [names[label], names[predicted], f"{errors:,}", f"{n:,}", f"{100 * errors / n:.1f} %"]
        line += [f"{found.baseline[label, predicted]:,}"] if chosen.baseline else []
        images = (image_range(scores, label), image_range(scores, predicted))
        lines.append([*line, " \N{RIGHTWARDS ARROW} ".join(images)])
    pairs, wrong = len(found.focus), sum(found.focus.values())
    caption = (
        f"Test images that {chosen.focus} ({chosen.reason}) classifies wrongly: number of errors and number n of test "
        f"images of the true class{over_runs(runs)}. {wrong:,} errors are in {pairs:,} pairs of classes"
        f"{f'; the {MAX_PAIRS} most frequent are listed' if pairs > MAX_PAIRS else ''}."
        f"{f' The column {chosen.baseline} has the errors of this method.' if chosen.baseline else ''}"
        " Training images are those of the true and of the predicted class."
    )
    return CaptionedTable("Most confused classes", caption, lines, css_class="text")


def pair_pictures(found: Confusions, scores: Sequence[ClassScores], images: StudyImages) -> CaptionedPictures:
    """Return pictures of the most confused pairs: test images, and training images of the predicted class."""
    names = scores[0].names
    groups: list[PictureGroup] = []
    for label, predicted in found.ranked(PAIRS_WITH_PICTURES):
        order, confused = next(iter(found.confused[label, predicted].items()))
        pictures = [
            Picture(images.picture(order, "test", i, label), f"test image {i}", found.names.get((order, i), ""))
            for i in sorted(confused)[:ERRORS]
        ]
        labels = images.labels(order, "train")
        # Without the file, each of them is a missing image.
        of_train = np.flatnonzero(labels == predicted)[:EXAMPLES].tolist() if len(labels) else range(EXAMPLES)
        pictures += [
            Picture(images.picture(order, "train", i, predicted), f"training image of {names[predicted]}")
            for i in of_train
        ]
        shots = next(of_order.shots for of_order in scores if of_order.order == order)
        groups.append(
            PictureGroup(
                f"{names[label]} \N{RIGHTWARDS ARROW} {names[predicted]}",
                f"{found.focus[label, predicted]:,} of n = {found.images[label]:,}; {SHOT_NAMES[shots[label]]} "
                f"\N{RIGHTWARDS ARROW} {SHOT_NAMES[shots[predicted]]}",
                pictures,
            )
        )
    caption = (
        f"True class \N{RIGHTWARDS ARROW} predicted class. Each pair shows the first {ERRORS} confused test images in "
        f"the order of the test split, and the first {EXAMPLES} training images of the predicted class."
    )
    return CaptionedPictures("Pictures of the most confused classes", caption, groups)
