"""Softmax focal loss (Lin et al. 2017, as used by Cao et al. 2019)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from mem.objectives.base import FinetuningLoss, Targets, at_least_float32, is_label


class Focal(FinetuningLoss):
    """(1 - p_y)^gamma times the cross-entropy -log p_y, where p_y is the softmax probability of the label y.

    Source: `FocalLoss` in `losses.py` of LDAM-DRW. It requires at least two classes.

    Args:
        classes: Number of classes.
        gamma: Exponent.
    """

    accepts_mixed_samples = False

    def __init__(self, classes: int, gamma: float) -> None:
        super().__init__(classes)
        self.gamma = gamma

    def values(self, logits: Float[Tensor, "samples classes"], targets: Targets) -> Float[Tensor, " samples"]:
        """Return the focal loss of each sample."""
        log_p = at_least_float32(logits).log_softmax(dim=1)
        label = is_label(targets.labels, self.classes)
        # log(1 - p_y), from the other classes: 1 - p_y has no digits left if p_y is close to 1, and the gradient of a
        # power with a small exponent is infinite at 0.
        log_rest = log_p.masked_fill(label, -torch.inf).logsumexp(dim=1)
        cross_entropy = -log_p.gather(1, targets.labels[:, None])[:, 0]
        return (self.gamma * log_rest).exp() * cross_entropy
