"""Accuracy metrics: overall, per class, per shot group, top-k and balanced."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from jaxtyping import Float64, Int64

from mem.longtail import SHOT_NAMES


def per_class_accuracy(predictions: np.ndarray, labels: np.ndarray, classes: int) -> Float64[np.ndarray, " {classes}"]:
    """Return the accuracy of each class: the share of its images that are classified correctly; NaN without images."""
    images = np.bincount(labels, minlength=classes)
    correct = np.bincount(labels[predictions == labels], minlength=classes)
    with np.errstate(invalid="ignore"):
        return correct / images


def shot_accuracy(
    predictions: np.ndarray, labels: np.ndarray, groups: Int64[np.ndarray, " classes"]
) -> dict[str, float]:
    """Return the mean class accuracy of each shot group, and the accuracy over all images.

    The value for a shot group without images is NaN. Source: the evaluation protocol of Liu et al. 2019.
    """
    by_class = per_class_accuracy(predictions, labels, len(groups))
    scores = {name: present_mean(by_class[groups == g]) for g, name in enumerate(SHOT_NAMES)}
    return {**scores, "all": float((predictions == labels).mean()) if len(labels) else float("nan")}


def top_k_accuracy(top: Int64[np.ndarray, "images k"], labels: Int64[np.ndarray, " images"]) -> float:
    """Return the share of images whose label is among the k most probable classes; NaN without images."""
    return float((top == labels[:, None]).any(axis=1).mean()) if len(labels) else float("nan")


def balanced_accuracy(predictions: np.ndarray, labels: np.ndarray, classes: int) -> float:
    """Return the mean accuracy over the classes that have images; NaN without images.

    The result is the correctly rounded value of the exact mean. Predictions of equal accuracy therefore have equal
    results, whichever classes their errors are in, and on a balanced split the result equals the share of correct
    images exactly.
    """
    images = np.bincount(labels, minlength=classes)
    correct = np.bincount(labels[predictions == labels], minlength=classes)
    present = images > 0
    if not present.any():
        return float("nan")
    sizes, size_of_class = np.unique(images[present], return_inverse=True)
    correct_by_size = np.bincount(size_of_class, correct[present]).astype(np.int64)
    total = sum(Fraction(c, n) for c, n in zip(correct_by_size.tolist(), sizes.tolist(), strict=True))
    return float(Fraction(total) / int(present.sum()))


def class_weighted(shots: Sequence[float], classes: Sequence[int]) -> float:
    """Return the accuracy on a balanced split, given the accuracy and the number of classes of each shot group."""
    return float(np.average(shots, weights=classes))


def present_mean(values: np.ndarray) -> float:
    """Return the mean of the values that are not NaN; NaN if there are none."""
    present = values[~np.isnan(values)]
    return float(present.mean()) if len(present) else float("nan")
