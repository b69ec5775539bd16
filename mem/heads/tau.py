"""Tau-normalised classifier (Kang et al. 2020, section 4.2): no training, one number chosen on val."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from mem.heads.base import Linear


def tau_normalised(weight: Float[Tensor, "classes width"], tau: float) -> Linear:
    """The classifier W_k / ||W_k||^tau, without bias."""
    norms = torch.linalg.vector_norm(weight, dim=1, keepdim=True)
    return Linear(weight / norms**tau, None)
