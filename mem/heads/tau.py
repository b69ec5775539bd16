"""Tau-normalised classifier (Kang et al. 2020, section 4.2): no training, one number chosen on val."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from mem.heads.base import Linear, accuracy


def tau_normalised(weight: Float[Tensor, "classes width"], tau: float) -> Linear:
    """The classifier W_k / ||W_k||^tau, without bias."""
    norms = torch.linalg.vector_norm(weight, dim=1, keepdim=True)
    return Linear(weight / norms**tau, None)


@torch.no_grad()
def choose_tau(
    weight: Float[Tensor, "classes width"],
    taus: Sequence[float],
    features: Float[Tensor, "samples width"],
    labels: Int64[Tensor, " samples"],
) -> tuple[float, dict[float, float]]:
    """The tau with the highest accuracy on `features` (the smallest of equal ones), and the accuracy of each."""
    scores = {tau: float(accuracy(tau_normalised(weight, tau)(features), labels)) for tau in sorted(taus)}
    return max(scores, key=lambda tau: scores[tau]), scores
