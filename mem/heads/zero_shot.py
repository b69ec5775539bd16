"""Zero-shot classifier of a CLIP model (Radford et al. 2021): cosines of projected features and class embeddings."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from mem.heads.base import Head, Linear, pooled_feature


class ZeroShotHead(Head):
    """A classifier with logits s cos(P z, t_k) of the feature z, for the embedding t_k of class k. Nothing is trained.

    Without a projection P, class embeddings and features have the same width. Source: `ZeroShotCLIP` of shijxcs/LIFT
    (models/models.py at 661ead9), where P is the last layer of the image encoder and s is CLIP's learned scale.

    Args:
        embeddings: The class embeddings, of norm 1.
        projection: The matrix P, or None.
        scale: The scale s.
        mean_norm: Mean norm of P z over the training images; see `as_start`.
    """

    def __init__(
        self,
        embeddings: Float[Tensor, "classes embedding"],
        projection: Float[Tensor, "embedding width"] | None,
        scale: float,
        mean_norm: float = 1.0,
    ) -> None:
        super().__init__()
        self.scale = scale
        self.register_buffer("embeddings", embeddings.clone())
        self.register_buffer("projection", None if projection is None else projection.clone())
        self.register_buffer("mean_norm", torch.tensor(mean_norm, dtype=torch.float64))

    def projected(self, features: Float[Tensor, "samples *sequence width"]) -> Float[Tensor, "samples embedding"]:
        """Return the pooled features in the space of the class embeddings."""
        pooled, projection = pooled_feature(features), self._buffers["projection"]
        return pooled if projection is None else F.linear(pooled, projection)

    def forward(self, features: Float[Tensor, "samples *sequence width"]) -> Float[Tensor, "samples classes"]:
        """Return the logits."""
        return self.scale * F.linear(F.normalize(self.projected(features), dim=1), self.get_buffer("embeddings"))

    def as_start(self) -> Linear:
        """Return a linear classifier with the same predictions, from which other heads start.

        The weight vectors are s P^T t_k divided by the mean norm of P z over the training images, so that its logits
        have the size of those of this head. For a feature with the mean norm, they are equal.
        """
        weight, projection = self.get_buffer("embeddings"), self._buffers["projection"]
        if projection is not None:
            weight = weight @ projection
        weight = weight * (self.scale / float(self.get_buffer("mean_norm")))
        return Linear(weight, weight.new_zeros(len(weight)))


@torch.no_grad()
def set_mean_norm(head: ZeroShotHead, batches: Iterable[Float[Tensor, "_ width"]]) -> None:
    """Store the mean norm of projected features, in place. It is 1 if all features are 0.

    Args:
        head: The head.
        batches: Features of the training images.
    """
    norms = torch.cat([head.projected(features).double().norm(dim=1) for features in batches])
    mean = norms.mean()
    head.get_buffer("mean_norm").copy_(mean if mean > 0 else torch.ones_like(mean))
