"""Loss functions that return one value per sample."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor


def cross_entropy(
    logits: Float[Tensor, "samples classes"], labels: Int64[Tensor, " samples"], smoothing: float = 0.0
) -> Float[Tensor, " samples"]:
    """Return the cross-entropy with label smoothing (Szegedy et al. 2016). Autocast computes it in float32."""
    return F.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)


def mixed_cross_entropy(
    logits: Float[Tensor, "samples classes"],
    labels: Int64[Tensor, " samples"],
    partners: Int64[Tensor, " samples"],
    shares: Float[Tensor, " samples"],
    smoothing: float = 0.0,
) -> Float[Tensor, " samples"]:
    """Return the cross-entropy of mixed samples, which equals the cross-entropy with soft targets mixed equally.

    Args:
        logits: Logits of the mixed samples.
        labels: Label of the first image of each sample.
        partners: Label of the second image.
        shares: Share of the first image.
        smoothing: Label smoothing.
    """
    first, second = (cross_entropy(logits, target, smoothing) for target in (labels, partners))
    return shares * first + (1 - shares) * second
