"""Selection of tau on val, for heads without training: tau-normalisation and post-hoc logit adjustment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from mem.heads.base import Linear
from mem.metrics import balanced_accuracy, balanced_standard_error


class ValScores(NamedTuple):
    """Scores of a candidate on val, from 0 to 1."""

    accuracy: float
    """Share of the images that are classified correctly."""
    balanced: float
    """Mean accuracy over the classes that have images in val. The selection uses this score."""
    standard_error: float
    """Standard error of `balanced` due to the sampling of the val images."""


@torch.no_grad()
def choose_on_val(
    head_of_tau: Callable[[float], Linear],
    taus: Sequence[float],
    features: Float[Tensor, "samples width"],
    labels: Int64[Tensor, " samples"],
) -> tuple[float, dict[float, ValScores]]:
    """Return the tau with the highest balanced accuracy (the smallest in a tie), and the scores of each tau.

    Methods for long-tailed recognition are compared on balanced test splits, on which every class has the same weight.
    The share of correct images of a val split with a long tail gives the classes the weights of training, and selects a
    tau that is too small. On a balanced val split, both scores are equal.

    Args:
        head_of_tau: Function that returns the head for a value of tau.
        taus: Candidate values of tau.
        features: Pooled features of the val split.
        labels: Labels of the val split.
    """
    classes = len(head_of_tau(taus[0]).weight)
    true = labels.numpy()
    scores: dict[float, ValScores] = {}
    for tau in sorted(taus):
        predictions = head_of_tau(tau)(features).argmax(dim=1).numpy()
        correct = predictions == true
        scores[tau] = ValScores(
            float(correct.mean()),
            balanced_accuracy(predictions, true, classes),
            balanced_standard_error(correct, true, classes),
        )
    return max(scores, key=lambda tau: scores[tau].balanced), scores
