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
    """Return the cross-entropy of samples that were mixed from two images.

    It equals the cross-entropy with soft targets that are mixed in the same proportions as the images.

    Args:
        logits: Logits of the mixed samples.
        labels: Label of the first image in each sample.
        partners: Label of the second image in each sample.
        shares: Share of the first image in each sample.
        smoothing: Label smoothing factor.
    """
    first, second = (cross_entropy(logits, target, smoothing) for target in (labels, partners))
    return shares * first + (1 - shares) * second
