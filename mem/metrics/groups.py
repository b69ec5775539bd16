"""Metrics for class groups: confusion between groups, group recall, and oracle accuracy."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Float64, Int64

from mem.metrics.accuracy import shot_accuracy


def group_confusion(
    predictions: np.ndarray, labels: np.ndarray, groups: Int64[np.ndarray, " classes"], number: int
) -> Int64[np.ndarray, "{number} {number}"]:
    """Return a matrix whose entry (i, j) is the number of images of group i that are predicted as a class of group j.

    Figure 1a of the paper shows these numbers as shares.
    """
    pairs = groups[labels] * number + groups[predictions]
    return np.bincount(pairs, minlength=number * number).reshape(number, number)


def group_recall(confusion: Int64[np.ndarray, "number number"]) -> Float64[np.ndarray, " number"]:
    """Return the share of each group's images that are predicted as any class of the same group; NaN without images."""
    with np.errstate(invalid="ignore"):
        return np.diagonal(confusion) / confusion.sum(axis=1)


def best_in_group(
    logits: Float[np.ndarray, "images classes"], groups: Int64[np.ndarray, " classes"], number: int
) -> Int64[np.ndarray, "images {number}"]:
    """Return the class with the largest logit in each group; -1 for a group without classes."""
    best = np.full((len(logits), number), -1, dtype=np.int64)
    for g in range(number):
        members = np.flatnonzero(groups == g)
        if len(members):
            best[:, g] = members[logits[:, members].argmax(axis=1)]
    return best


def oracle_accuracy(
    best: Int64[np.ndarray, "images number"],
    labels: Int64[np.ndarray, " images"],
    groups: Int64[np.ndarray, " classes"],
) -> dict[str, float]:
    """Return the accuracy per shot group if each image's group is known: the paper's X-shot oracle (figure 1b).

    Args:
        best: The predicted class within each group, as `best_in_group` returns it.
        labels: True classes.
        groups: Shot group of each class.
    """
    return shot_accuracy(best[np.arange(len(labels)), groups[labels]], labels, groups)


def group_by_norm(norms: Float[np.ndarray, "images number"], true_groups: Int64[np.ndarray, " images"]) -> np.ndarray:
    """Return, for each image, whether the sub-network with the largest norm is that of the image's group."""
    return norms.argmax(axis=1) == true_groups


def mean_by_group(
    values: Float[np.ndarray, "images number"], true_groups: Int64[np.ndarray, " images"]
) -> Float64[np.ndarray, "number number"]:
    """Return the mean MEM norm or weight of each group (columns) over the images of each true group (rows).

    The row of a group without images is NaN.
    """
    number = values.shape[1]
    means = np.full((number, number), np.nan)
    for g in range(number):
        if (in_group := true_groups == g).any():
            means[g] = values[in_group].mean(axis=0, dtype=np.float64)
    return means
