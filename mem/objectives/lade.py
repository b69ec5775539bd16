"""LADE (Hong et al. 2021): balanced softmax with a regulariser of the logits."""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mem import config, longtail, losses
from mem.objectives.base import FinetuningLoss, Targets, at_least_float32


class Lade(FinetuningLoss):
    """Cross-entropy of the logits plus log pi, plus alpha R.

    R = - sum_c pi_c (mean of z_c over samples of class c - A_c - lambda A_c^2), where A_c is the log of the mean of
    exp(z_c - log pi_c - log C) over all samples of the batch. R makes z_c estimate log(p(x | c) / p(x)) with the
    regularised Donsker-Varadhan representation. Source: Hong et al. 2021, and `loss/PriorCELoss.py` and
    `loss/LADELoss.py` of the official code. Predictions use the logits without log pi.

    R depends on the complete batch. It is part of the value of each sample, so the mean over samples contains it once.
    For a class without samples in the batch, the mean of z_c is 0 and A_c remains, as in the official code. The
    official code adds 1e-9 to pi and 1e-8 to the number of samples of a class, which is left out here.

    Args:
        class_counts: Number of training images of each class.
        settings: alpha (`regulariser_weight`) and lambda (`quadratic_weight`).
    """

    accepts_mixed_samples = False

    def __init__(self, class_counts: np.ndarray, settings: config.LadeObjective) -> None:
        super().__init__(len(class_counts))
        log_prior = torch.from_numpy(longtail.log_prior(class_counts))
        self.register_buffer("log_prior", log_prior.float(), persistent=False)
        self.register_buffer("prior", log_prior.exp().float(), persistent=False)
        self.settings = settings

    def values(self, logits: Float[Tensor, "samples classes"], targets: Targets) -> Float[Tensor, " samples"]:
        """Return the cross-entropy of each sample plus the weighted regulariser of the batch."""
        logits = at_least_float32(logits)
        values = losses.cross_entropy(logits + self.get_buffer("log_prior"), targets.labels)
        return values + self.settings.regulariser_weight * self.regulariser(logits, targets)

    def regulariser(self, logits: Float[Tensor, "samples classes"], targets: Targets) -> Float[Tensor, ""]:
        """Return R for the complete batch."""
        labels, prior = targets.labels, self.get_buffer("prior")
        same_label = (labels[:, None] == labels).sum(dim=1)
        # Sum over classes of pi_c times the mean of z_c over the samples of class c, written as a sum over samples.
        own = logits.gather(1, labels[:, None])[:, 0]
        means = (prior[labels] * own / same_label).sum()
        log_means = (logits - self.get_buffer("log_prior") - math.log(self.classes)).logsumexp(dim=0)
        log_means = log_means - math.log(len(logits))
        return (prior * (log_means + self.settings.quadratic_weight * log_means.square())).sum() - means
