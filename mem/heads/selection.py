"""Selection of tau on val, for heads without training: tau-normalisation and post-hoc logit adjustment."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from mem.heads.base import Linear, accuracy


@torch.no_grad()
def choose_on_val(
    head_of_tau: Callable[[float], Linear],
    taus: Sequence[float],
    features: Float[Tensor, "samples width"],
    labels: Int64[Tensor, " samples"],
) -> tuple[float, dict[float, float]]:
    """Return the tau with the highest accuracy (the smallest in a tie), and the accuracy of each tau.

    Args:
        head_of_tau: Function that returns the head for a value of tau.
        taus: Candidate values of tau.
        features: Pooled features of the val split.
        labels: Labels of the val split.
    """
    scores = {tau: float(accuracy(head_of_tau(tau)(features), labels)) for tau in sorted(taus)}
    return max(scores, key=lambda tau: scores[tau]), scores
