"""Balanced binary cross-entropy of LiVT (Xu et al. 2023)."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mem import longtail
from mem.objectives.base import FinetuningLoss, Targets, at_least_float32, is_label


class BalancedBce(FinetuningLoss):
    """The sum over classes of the binary cross-entropies of z_k + tau (log pi_k - log(1 - pi_k)).

    Source: the balanced BCE of Xu et al. 2023, and `BCE_loss` in `util/loss.py` of the official code, which multiplies
    the mean over samples and classes by the number of classes. The official code has the setting `bal_tau`, but its
    BCE does not use it and corresponds to tau 1. Predictions use the logits without the offsets.

    The target t of a class is 1 for the label and 0 otherwise. Label smoothing s replaces it with (1 - s) t + s / C.
    Targets of mixed samples are mixed in the same proportions as the images. The offset of a single class is infinite,
    so the loss requires at least two classes.

    Args:
        class_counts: Number of training images of each class.
        tau: Strength of the adjustment.
        smoothing: Label smoothing factor.
    """

    def __init__(self, class_counts: np.ndarray, tau: float, smoothing: float) -> None:
        super().__init__(len(class_counts))
        log_prior = longtail.log_prior(class_counts)
        offset = tau * (log_prior - np.log1p(-np.exp(log_prior)))
        self.register_buffer("offset", torch.from_numpy(offset).float(), persistent=False)
        self.smoothing = smoothing

    def values(self, logits: Float[Tensor, "samples classes"], targets: Targets) -> Float[Tensor, " samples"]:
        """Return the sum over classes of the binary cross-entropies."""
        logits = at_least_float32(logits) + self.get_buffer("offset")
        wanted = self._label_weights(targets, logits.dtype)
        wanted = (1 - self.smoothing) * wanted + self.smoothing / self.classes
        return F.binary_cross_entropy_with_logits(logits, wanted, reduction="none").sum(dim=1)

    def _label_weights(self, targets: Targets, dtype: torch.dtype) -> Float[Tensor, "samples classes"]:
        """Return the weight of each class in each sample."""
        first = is_label(targets.labels, self.classes).to(dtype)
        if targets.mixed is None:
            return first
        partners, shares = targets.mixed
        share = shares.to(dtype)[:, None]
        return share * first + (1 - share) * is_label(partners, self.classes).to(dtype)
