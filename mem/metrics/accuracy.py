"""Accuracy: of all images, of each class, of each shot, among the top k, balanced."""

from __future__ import annotations

from collections.abc import Sequence

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
    scores = {name: present_mean(by_class[groups == g]) for g, name in enumerate(SHOT_NAMES)}
    return {**scores, "all": float((predictions == labels).mean()) if len(labels) else float("nan")}


def top_k_accuracy(top: Int64[np.ndarray, "images k"], labels: Int64[np.ndarray, " images"]) -> float:
    """Share of the images whose label is among the k classes; NaN without images."""
    return float((top == labels[:, None]).any(axis=1).mean()) if len(labels) else float("nan")


def balanced_accuracy(predictions: np.ndarray, labels: np.ndarray, classes: int) -> float:
    """Mean over the classes that have images of their accuracy; what accuracy is on a balanced split."""
    return present_mean(per_class_accuracy(predictions, labels, classes))


def class_weighted(shots: Sequence[float], classes: Sequence[int]) -> float:
    """Accuracy of all images of a balanced split, from that of each shot and the shots' numbers of classes."""
    return float(np.average(shots, weights=classes))


def present_mean(values: np.ndarray) -> float:
    """Mean of what is there; NaN where nothing is."""
    present = values[~np.isnan(values)]
    return float(present.mean()) if len(present) else float("nan")
