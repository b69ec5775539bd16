"""Metrics of classification on long-tailed data: pure functions of predictions and labels."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64, Int64

from mem.longtail import SHOT_NAMES


def per_class_accuracy(predictions: np.ndarray, labels: np.ndarray, classes: int) -> Float64[np.ndarray, " {classes}"]:
    """Share of each class's images that are right; NaN for a class without images."""
    images = np.bincount(labels, minlength=classes)
    right = np.bincount(labels[predictions == labels], minlength=classes)
    with np.errstate(invalid="ignore"):
        return right / images


def shot_accuracy(
    predictions: np.ndarray, labels: np.ndarray, groups: Int64[np.ndarray, " classes"]
) -> dict[str, float]:
    """Accuracy of each shot, the mean over its classes of their accuracy, and of all images.

    A shot none of whose classes has an image is NaN. Source: the protocol of Liu et al. 2019.
    """
    by_class = per_class_accuracy(predictions, labels, len(groups))
    scores = {name: _mean(by_class[groups == g]) for g, name in enumerate(SHOT_NAMES)}
    return {**scores, "all": float((predictions == labels).mean()) if len(labels) else float("nan")}


def group_confusion(
    predictions: np.ndarray, labels: np.ndarray, groups: Int64[np.ndarray, " classes"], number: int
) -> Int64[np.ndarray, "{number} {number}"]:
    """How many images of group i were predicted as a class of group j (the paper's figure 1a, before its shares)."""
    pairs = groups[labels] * number + groups[predictions]
    return np.bincount(pairs, minlength=number * number).reshape(number, number)


def _mean(values: np.ndarray) -> float:
    present = values[~np.isnan(values)]
    return float(present.mean()) if len(present) else float("nan")
