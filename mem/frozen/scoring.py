"""Score predictions by shot group."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mem import config, longtail, metrics
from mem.data.features.arrays import Array, as_numpy, checked_labels, require_every_class, require_known_labels
from mem.errors import UserError


class ShotScores(NamedTuple):
    """Accuracies from 0 to 1. A score over classes without images is NaN."""

    many: float
    """Mean class accuracy of the many-shot classes."""
    medium: float
    few: float
    all: float
    """Accuracy over all images."""
    balanced: float
    """Mean accuracy over the classes that have images."""
    group_of_class: tuple[str, ...]
    """Shot group of each class: `many`, `medium` or `few`."""


def score_by_shot(
    predictions: Array, labels: Array, train_labels: Array, *, shots: config.Shots | None = None
) -> ShotScores:
    """Score predictions by shot group, as the stage `evaluate` does.

    The shot group of a class depends on its number of training images, not on the scored images. Source: the
    evaluation protocol of Liu et al. 2019.

    Args:
        predictions: Predicted class of each image, for example from `FittedHead.predict`.
        labels: True class of each image.
        train_labels: Labels of the training split. With a holdout, pass the labels of the remaining and the held-out
            images together.
        shots: Thresholds of the shot groups. Default: more than 100 images are many, fewer than 20 are few.

    Raises:
        UserError: Predictions and labels do not match, are not class numbers, or a class has no training images.
    """
    train = as_numpy(train_labels)
    if not train.size:
        raise UserError("train_labels: there are no labels. Pass the labels of the training split.")
    train = checked_labels(train, train.size, "train_labels")
    counts = longtail.class_counts(train, int(train.max()) + 1)
    require_every_class(counts, "train_labels")
    predicted, true = as_numpy(predictions), as_numpy(labels)
    if predicted.ndim != 1 or predicted.shape != true.shape or not np.issubdtype(predicted.dtype, np.integer):
        raise UserError(
            f"predictions: shape {predicted.shape} and type {predicted.dtype}, for labels of shape {true.shape}; "
            "expected one class number per image. Pass FittedHead.predict(features), or the argmax of the logits."
        )
    if not len(true):
        raise UserError("predictions: there are no images to score. Pass at least one prediction and its label.")
    for name, values in (("predictions", predicted), ("labels", true)):
        require_known_labels(checked_labels(values, len(values), name), len(counts), name)
    groups = longtail.shot_groups(counts, shots or config.Shots())
    scores = metrics.shot_accuracy(predicted, true, groups)
    balanced = metrics.balanced_accuracy(predicted, true, len(counts))
    return ShotScores(**scores, balanced=balanced, group_of_class=tuple(longtail.SHOT_NAMES[g] for g in groups))
