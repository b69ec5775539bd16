"""Cosine classifier as a head."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from mem.heads.base import Head, pooled_feature
from mem.heads.prior import loss_with_prior
from mem.models.cosine import CosineLinear, cosine_logits


class CosineHead(Head):
    """A classifier with logits s cos(w_k, z) on the pooled feature z; see `mem.models.cosine`. It is not linear.

    Args:
        weight: The weight vector of each class.
        scale: The scale s.
        offset: One offset per class that the loss adds to the logits, as in `PriorLinear`. Predictions do not use it.
    """

    def __init__(
        self, weight: Float[Tensor, "classes width"], scale: float, offset: Float[Tensor, " classes"] | None = None
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.clone())
        self.scale = scale
        self.register_buffer("offset", offset, persistent=False)

    def forward(self, features: Float[Tensor, "samples *sequence width"]) -> Float[Tensor, "samples classes"]:
        """Return the logits."""
        return cosine_logits(pooled_feature(features), self.weight, self.scale)

    def loss(
        self, features: Float[Tensor, "samples *sequence width"], labels: Int64[Tensor, " samples"]
    ) -> tuple[Float[Tensor, ""], Mapping[str, Tensor]]:
        """Return the mean cross-entropy with the offsets added to the logits, and the accuracy without the offsets."""
        return loss_with_prior(self(features), labels, self._buffers["offset"])


def fresh_cosine(
    width: int, classes: int, scale: float, seed: int, offset: Float[Tensor, " classes"] | None = None
) -> CosineHead:
    """Return a cosine classifier with new weights, without using PyTorch's global random number generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layer = CosineLinear(width, classes, scale)
    return CosineHead(layer.weight.detach(), scale, offset)
