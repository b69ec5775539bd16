"""LDAM with deferred re-weighting (Cao et al. 2019)."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mem import config, longtail, losses
from mem.objectives.base import FinetuningLoss, Targets, at_least_float32, is_label
from mem.objectives.reweighting import inverse_effective_numbers


class Ldam(FinetuningLoss):
    """Cross-entropy of s cos(w_k, z), where s m_y is subtracted from the logit of the label y.

    The margin m_k is proportional to n_k^(-1/4) and equals `max_margin` for the smallest class with images (section
    3.2). Logits of the cosine classifier contain the factor s, so the margins are multiplied by s. Predictions use the
    logits without the margins.

    From `reweight_from_epoch`, a sample is weighted by the inverse effective number of its class (deferred
    re-weighting, DRW, section 3.3). The weights are scaled so that sum_k pi_k w_k = 1, and the loss is the mean over
    samples. The official code divides the weighted sum by the sum of the weights in the batch instead, as
    `torch.nn.CrossEntropyLoss` does. That divisor differs between the parts of a batch, so the result would depend on
    the number of ranks. Here, it is replaced by its expectation under the training distribution.

    Args:
        class_counts: Number of training images of each class.
        settings: Maximum margin and deferred re-weighting.
        scale: Scale s of the cosine classifier.
    """

    accepts_mixed_samples = False

    def __init__(self, class_counts: np.ndarray, settings: config.MarginObjective, scale: float) -> None:
        super().__init__(len(class_counts))
        counts = longtail.positive_counts(class_counts)
        # Only classes with images determine the smallest class. A class without images has its margin.
        smallest = counts[class_counts > 0].min() if (class_counts > 0).any() else counts.min()
        margins = scale * settings.max_margin * np.maximum(counts / smallest, 1) ** -0.25
        self.register_buffer("margins", torch.from_numpy(margins).float(), persistent=False)
        weights = np.ones(len(counts))
        if settings.beta is not None:
            weights = inverse_effective_numbers(class_counts, settings.beta)
            weights = weights * counts.sum() / (counts * weights).sum()
        self.register_buffer("weights", torch.from_numpy(weights).float(), persistent=False)
        self.reweight_from_epoch = settings.reweight_from_epoch

    def values(self, logits: Float[Tensor, "samples classes"], targets: Targets) -> Float[Tensor, " samples"]:
        """Return the cross-entropy with margins of each sample, weighted from `reweight_from_epoch`."""
        logits, labels = at_least_float32(logits), targets.labels
        margins = self.get_buffer("margins").to(logits.dtype)[labels][:, None]
        values = losses.cross_entropy(torch.where(is_label(labels, self.classes), logits - margins, logits), labels)
        return self.get_buffer("weights")[labels] * values if self.reweights_at(targets.epoch) else values

    def reweights_at(self, epoch: float) -> bool:
        """Whether deferred re-weighting has begun."""
        return self.reweight_from_epoch is not None and epoch >= self.reweight_from_epoch
