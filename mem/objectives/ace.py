"""ACE (Cai et al. 2021): experts for nested subsets of the classes."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from mem import config
from mem.objectives.base import FinetuningLoss, Targets, at_least_float32


class Ace(FinetuningLoss):
    """Cross-entropy of each expert over the classes it owns, plus the squares of its other logits.

    From the description, not verified against code: no code of the authors is available. Expert 1 owns all classes, and
    experts 2, 3, ... own nested subsets of rarer classes. An expert is trained with the images of its own classes only.
    For each of them, its loss is the cross-entropy of the softmax over its own classes, plus `suppression_weight` times
    the sum of the squared logits of all other classes. The logits of an expert then stay close to 0 for classes that it
    does not own.

    The loss of expert k is the mean over the images of its classes. In a value of a sample, it has the factor N / N_k,
    where N_k is the number of training images of its classes and N of all classes, so that the mean over all samples is
    this mean in expectation and does not depend on how a batch is divided. The learning rate of the layers that expert
    k owns has the factor N_k / N (`expert_lr_factors`; distribution-adaptive optimizer). In the publication, only
    expert 1 trains the shared layers (`finetune.experts.shared_trained_by: first`).

    Predictions use, for each class, the mean of the logits of the experts that own it. Where the description leaves a
    choice, this project chooses: the softmax is over the own classes, and logits are not re-scaled before they are
    averaged.

    Args:
        class_counts: Number of training images of each class.
        settings: The subsets (`largest_counts`) and `suppression_weight`.
        counts_before_holdout: Number of training images of each class before a holdout, which define the subsets, as
            they define the shot groups. Default: `class_counts`.
    """

    accepts_mixed_samples: ClassVar[bool] = False
    requires_experts: ClassVar[bool] = True

    def __init__(
        self,
        class_counts: np.ndarray,
        settings: config.AceObjective,
        counts_before_holdout: np.ndarray | None = None,
    ) -> None:
        super().__init__(len(class_counts))
        subset_counts = class_counts if counts_before_holdout is None else counts_before_holdout
        owned = owned_classes(subset_counts, settings.largest_counts)
        self.register_buffer("owned", torch.from_numpy(owned), persistent=False)
        shares = owner_shares(subset_counts, settings.largest_counts)
        self.register_buffer("shares", torch.from_numpy(shares).float(), persistent=False)
        images = owned @ class_counts
        # A batch cannot contain images of an expert whose classes have none.
        factors = class_counts.sum() / np.maximum(images, 1)
        self.register_buffer("factors", torch.from_numpy(factors).float(), persistent=False)
        self.expert_lr_factors = tuple((images / max(class_counts.sum(), 1)).tolist())
        self.suppression_weight = settings.suppression_weight

    def values(self, logits: Float[Tensor, "samples experts classes"], targets: Targets) -> Float[Tensor, " samples"]:
        """Return the sum of the losses of the experts that own the label of each sample."""
        logits, owned = at_least_float32(logits), self.get_buffer("owned")
        labels = targets.labels[:, None, None].expand(-1, logits.shape[1], 1)
        others = ~owned
        totals = logits.masked_fill(others, float("-inf")).logsumexp(dim=2)
        entropies = totals - logits.gather(2, labels)[:, :, 0]
        suppressed = (logits * others).square().sum(dim=2)
        values = self.get_buffer("factors") * (entropies + self.suppression_weight * suppressed)
        return torch.where(owned[:, targets.labels].T, values, 0.0).sum(dim=1)

    def predictions(self, logits: Float[Tensor, "samples experts classes"]) -> Float[Tensor, "samples classes"]:
        """Return the mean over the experts that own a class of its logits."""
        return (at_least_float32(logits) * self.get_buffer("shares")).sum(dim=1)


def owned_classes(class_counts: np.ndarray, largest_counts: tuple[int, ...]) -> Bool[np.ndarray, "experts classes"]:
    """Return whether each expert (row) owns each class (column): expert 1 all, the others those with few images."""
    own = [np.full(len(class_counts), True), *(class_counts <= largest for largest in largest_counts)]
    return np.stack(own)


def owner_shares(class_counts: np.ndarray, largest_counts: tuple[int, ...]) -> Float64[np.ndarray, "experts classes"]:
    """Return the weight of each expert in the mean over the experts that own a class. Columns add up to 1."""
    owned = owned_classes(class_counts, largest_counts)
    return owned / owned.sum(axis=0)
