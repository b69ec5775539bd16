"""Balanced softmax (Ren et al. 2020) and the logit-adjusted loss (Menon et al. 2021)."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mem import longtail
from mem.objectives.base import FinetuningLoss, Targets, at_least_float32
from mem.objectives.cross_entropy import smoothed_cross_entropy


class OffsetCrossEntropy(FinetuningLoss):
    """Cross-entropy of the logits plus one offset per class, with label smoothing, for single or mixed samples.

    Predictions use the logits without the offsets.

    Args:
        offset: Offset of each class.
        smoothing: Label smoothing factor.
    """

    def __init__(self, offset: np.ndarray, smoothing: float) -> None:
        super().__init__(len(offset))
        self.register_buffer("offset", torch.from_numpy(offset).float(), persistent=False)
        self.smoothing = smoothing

    def values(self, logits: Float[Tensor, "samples classes"], targets: Targets) -> Float[Tensor, " samples"]:
        """Return the cross-entropy of the logits plus the offsets."""
        return smoothed_cross_entropy(at_least_float32(logits) + self.get_buffer("offset"), targets, self.smoothing)


def balanced_softmax(class_counts: np.ndarray, smoothing: float) -> OffsetCrossEntropy:
    """Return balanced softmax: the offset is log n_k (Ren et al. 2020, eq. 4)."""
    return OffsetCrossEntropy(np.log(longtail.positive_counts(class_counts)), smoothing)


def logit_adjusted_loss(class_counts: np.ndarray, tau: float, smoothing: float) -> OffsetCrossEntropy:
    """Return the logit-adjusted loss: the offset is tau log pi_k (Menon et al. 2021, eq. 10)."""
    return OffsetCrossEntropy(tau * longtail.log_prior(class_counts), smoothing)
