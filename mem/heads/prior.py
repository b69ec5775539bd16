"""Methods that use the class counts: logit adjustment (Menon et al. 2021) and balanced softmax (Ren et al. 2020)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from mem import longtail
from mem.heads.base import Linear, accuracy
from mem.losses import cross_entropy


def log_prior(class_counts: np.ndarray) -> Float[Tensor, " classes"]:
    """Return `mem.longtail.log_prior` as a float32 tensor."""
    return torch.from_numpy(longtail.log_prior(class_counts)).float()


def logit_adjusted(classifier: Linear, prior: Float[Tensor, " classes"], tau: float) -> Linear:
    """Return the classifier with logits W_k z + b_k - tau log pi_k (Menon et al. 2021, eq. 9).

    `mem.heads.selection` chooses tau on val.
    """
    weight = classifier.weight.detach()
    bias = torch.zeros(len(weight)) if classifier.bias is None else classifier.bias.detach()
    return Linear(weight, bias - tau * prior)


def loss_with_prior(
    logits: Float[Tensor, "samples classes"],
    labels: Int64[Tensor, " samples"],
    offset: Float[Tensor, " classes"] | None,
) -> tuple[Float[Tensor, ""], Mapping[str, Tensor]]:
    """Return the mean cross-entropy of the logits plus the offset of each class, and the accuracy without the offsets.

    The offset tau log pi gives the logit-adjusted loss (Menon et al. 2021, eq. 10).
    """
    adjusted = logits if offset is None else logits + offset
    return cross_entropy(adjusted, labels).mean(), {"acc1": 100 * accuracy(logits, labels)}


class PriorLinear(Linear):
    """A linear classifier whose loss adds one offset per class to the logits. Predictions do not use the offsets.

    Args:
        start: The classifier before training.
        offset: tau log pi for the logit-adjusted loss (Menon et al. 2021, eq. 10), or log n for balanced softmax (Ren
            et al. 2020, eq. 3).
    """

    def __init__(self, start: Linear, offset: Float[Tensor, " classes"]) -> None:
        super().__init__(start.weight.detach(), None if start.bias is None else start.bias.detach())
        self.register_buffer("offset", offset, persistent=False)

    def loss(
        self, features: Float[Tensor, "samples *sequence width"], labels: Int64[Tensor, " samples"]
    ) -> tuple[Float[Tensor, ""], Mapping[str, Tensor]]:
        """Return the mean cross-entropy with the offsets added to the logits, and the accuracy without the offsets."""
        return loss_with_prior(self(features), labels, self.get_buffer("offset"))
