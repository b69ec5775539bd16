"""What a classifier does with groups of classes: where errors land, which group is recognised, the oracle."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Float64, Int64

from mem.metrics.accuracy import shot_accuracy


def group_confusion(
    predictions: np.ndarray, labels: np.ndarray, groups: Int64[np.ndarray, " classes"], number: int
) -> Int64[np.ndarray, "{number} {number}"]:
    """How many images of group i were predicted as a class of group j (the paper's figure 1a, before its shares)."""
    pairs = groups[labels] * number + groups[predictions]
    return np.bincount(pairs, minlength=number * number).reshape(number, number)


def group_recall(confusion: Int64[np.ndarray, "number number"]) -> Float64[np.ndarray, " number"]:
    """Share of each group's images that are predicted as some class of the group; NaN for a group without images."""
    with np.errstate(invalid="ignore"):
        return np.diagonal(confusion) / confusion.sum(axis=1)


def best_in_group(
    logits: Float[np.ndarray, "images classes"], groups: Int64[np.ndarray, " classes"], number: int
) -> Int64[np.ndarray, "images {number}"]:
    """The class with the largest logit among those of each group; -1 for a group without classes."""
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
    """Accuracy by shot when each image's group is given: the paper's X-shot oracle (figure 1b).

    Args:
        best: The class chosen among those of each group, as of `best_in_group`.
        labels: True classes.
        groups: Shot of each class.
    """
    return shot_accuracy(best[np.arange(len(labels)), groups[labels]], labels, groups)


def group_by_norm(norms: Float[np.ndarray, "images number"], true_groups: Int64[np.ndarray, " images"]) -> np.ndarray:
    """Whether the sub-network with the largest norm is that of the image's group, for each image."""
    return norms.argmax(axis=1) == true_groups


def mean_by_group(
    values: Float[np.ndarray, "images number"], true_groups: Int64[np.ndarray, " images"]
) -> Float64[np.ndarray, "number number"]:
    """Mean over the images of each true group (rows) of each group's value (columns): norms or weights of MEM.

    A group without images is NaN.
    """
    number = values.shape[1]
    means = np.full((number, number), np.nan)
    for g in range(number):
        if (mine := true_groups == g).any():
            means[g] = values[mine].mean(axis=0, dtype=np.float64)
    return means
