"""SADE, also called TADE (Zhang et al. 2022): three experts for three distributions of the classes."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from mem import longtail, losses
from mem.objectives.base import FinetuningLoss, Targets, at_least_float32


class Sade(FinetuningLoss):
    """Sum of three cross-entropies: of z_1, of z_2 + log pi and of z_3 + log pi - tau log reversed pi.

    z_e are the logits of expert e and pi the shares of the classes. In the reversed pi, the most frequent class has the
    share of the rarest one, and so on. Classes with the same number of images are ranked by their number.

    Source: `DiverseExpertLoss` in `model/loss.py` of the official code. It adds 1e-9 to the shares, which is left out
    here.

    Args:
        class_counts: Number of training images of each class.
        tau: Strength of the reversed distribution.
    """

    accepts_mixed_samples: ClassVar[bool] = False
    requires_experts: ClassVar[bool] = True

    def __init__(self, class_counts: np.ndarray, tau: float) -> None:
        super().__init__(len(class_counts))
        log_prior = longtail.log_prior(class_counts)
        offsets = np.stack([np.zeros_like(log_prior), log_prior, log_prior - tau * reversed_by_rank(log_prior)])
        self.register_buffer("offsets", torch.from_numpy(offsets).float(), persistent=False)

    def values(self, logits: Float[Tensor, "samples experts classes"], targets: Targets) -> Float[Tensor, " samples"]:
        """Return the sum of the three cross-entropies of each sample."""
        adjusted = at_least_float32(logits) + self.get_buffer("offsets")
        return torch.stack([losses.cross_entropy(own, targets.labels) for own in adjusted.unbind(dim=1)]).sum(dim=0)


def reversed_by_rank(values: Float64[np.ndarray, " classes"]) -> Float64[np.ndarray, " classes"]:
    """Exchange the largest value with the smallest one, the second largest with the second smallest, and so on."""
    order = np.argsort(values, kind="stable")
    result = np.empty_like(values)
    result[order] = values[order[::-1]]
    return result
