"""Loss functions, one value per sample."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor


def cross_entropy(
    logits: Float[Tensor, "samples classes"], labels: Int64[Tensor, " samples"], smoothing: float = 0.0
) -> Float[Tensor, " samples"]:
    """Cross-entropy with label smoothing (Szegedy et al. 2016); autocast computes it in float32."""
    return F.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)


def mixed_cross_entropy(
    logits: Float[Tensor, "samples classes"],
    labels: Int64[Tensor, " samples"],
    partners: Int64[Tensor, " samples"],
    shares: Float[Tensor, " samples"],
    smoothing: float = 0.0,
) -> Float[Tensor, " samples"]:
    """Cross-entropy of samples that are mixed of two; equal to that with a target that is mixed likewise."""
    own, other = (cross_entropy(logits, target, smoothing) for target in (labels, partners))
    return shares * own + (1 - shares) * other
