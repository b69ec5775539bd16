"""Tau-normalised classifier (Kang et al. 2020, section 4.2). `mem.heads.selection` chooses tau on val."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from mem.heads.base import Linear


def tau_normalised(weight: Float[Tensor, "classes width"], tau: float) -> Linear:
    """Return the classifier with weights W_k / ||W_k||^tau and no bias."""
    norms = torch.linalg.vector_norm(weight, dim=1, keepdim=True)
    return Linear(weight / norms**tau, None)
