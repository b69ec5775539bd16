"""RIDE (Wang et al. 2021): LDAM for each expert, and a term that makes experts differ."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mem import config, longtail
from mem.objectives.base import FinetuningLoss, Targets, at_least_float32
from mem.objectives.ldam import Ldam


class Ride(FinetuningLoss):
    """Sum over the experts of LDAM, minus d T^2 KL(p || p_e), without distillation.

    p_e are the probabilities of expert e at temperature T. p are those of the mean of the logits, without a gradient.
    From `reweight_from_epoch`, LDAM has deferred re-weighting (see `Ldam`), and each class k has its own temperature
    T_k = T (C pi_k r + 1 - r) / max_j (C pi_j r + 1 - r), where pi_k is its share of the training images, C the number
    of classes and r the `temperature_prior_weight`. The factor T^2 is then the square of the mean of the T_k.

    Source: `RIDELoss` in `model/loss.py` of the official code, which also adds up the experts. There, a weight d of 0
    trains only the mean of the experts. Here, it trains each expert. The weighted mean of deferred re-weighting has
    another divisor; see `Ldam`.

    Args:
        class_counts: Number of training images of each class.
        settings: Margins, deferred re-weighting, d (`diversity_weight`) and temperatures.
        scale: Scale of the cosine classifiers.
    """

    accepts_mixed_samples: ClassVar[bool] = False
    requires_experts: ClassVar[bool] = True

    def __init__(self, class_counts: np.ndarray, settings: config.RideObjective, scale: float) -> None:
        super().__init__(len(class_counts))
        self.ldam = Ldam(class_counts, settings, scale)
        counts, r = longtail.positive_counts(class_counts), settings.temperature_prior_weight
        temperatures = len(counts) * counts / counts.sum() * r + 1 - r
        temperatures = settings.temperature * temperatures / temperatures.max()
        self.register_buffer("temperatures", torch.from_numpy(temperatures).float(), persistent=False)
        self.mean_temperature = float(temperatures.mean())
        self.settings = settings

    def values(self, logits: Float[Tensor, "samples experts classes"], targets: Targets) -> Float[Tensor, " samples"]:
        """Return the sum over the experts of LDAM minus the weighted divergence, for each sample."""
        logits = at_least_float32(logits)
        margins = torch.stack([self.ldam.values(own, targets) for own in logits.unbind(dim=1)]).sum(dim=0)
        return margins - self.settings.diversity_weight * self.divergence(logits, targets.epoch)

    def divergence(self, logits: Float[Tensor, "samples experts classes"], epoch: float) -> Float[Tensor, " samples"]:
        """Return the sum over the experts of T^2 KL(p || p_e) for each sample."""
        by_class = self.ldam.reweights_at(epoch)
        temperatures = self.get_buffer("temperatures").to(logits.dtype) if by_class else self.settings.temperature
        square = (self.mean_temperature if by_class else self.settings.temperature) ** 2
        of_experts = (logits / temperatures).log_softmax(dim=2)
        of_mean = (logits.detach().mean(dim=1) / temperatures).log_softmax(dim=1)[:, None]
        return square * (of_mean.exp() * (of_mean - of_experts)).sum(dim=(1, 2))
