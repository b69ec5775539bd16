"""NCL (Li et al. 2022): balanced softmax and mutual distillation of experts, on all classes and on hard ones."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from mem import config, longtail, losses
from mem.objectives.base import FinetuningLoss, Targets, at_least_float32, is_label
from mem.objectives.momentum_contrast import momentum_contrast


class Ncl(FinetuningLoss):
    """Nested losses: for all classes and again for the hard classes, balanced softmax plus mutual distillation.

    With a_e = z_e + log n for the logits z_e of expert e, the loss of a sample is the sum over the experts of the
    cross-entropies of a_e, plus w / (E - 1) times the sum over all ordered pairs of KL(p_j || p_i), where p_e is the
    softmax of a_e. The same is added with a_e replaced by 0 for all classes that are not hard. The hard classes of a
    sample are its label and the N - 1 other classes with the largest logits of expert 1, without log n. Gradients flow
    through both sides of the divergence.

    With `contrast`, the losses of momentum contrast of all experts are added (`multi_network_default_CON` in
    `lib/core/combiner.py` of the official code): see `momentum_contrast`.

    Source: `NIL_NBOD` in `lib/loss/loss.py` of the official code, with the weights `CE_RATIO` and `HCM_RATIO` of 1 that
    all its configurations have. It adds 1e-9 to the probabilities before the logarithm, which is left out here. Its
    experts see the same image, as here.

    Args:
        class_counts: Number of training images of each class; at least N classes.
        settings: N (`hard_classes`), w (`mutual_weight`), and the contrast and its weight.
    """

    accepts_mixed_samples: ClassVar[bool] = False
    requires_experts: ClassVar[bool] = True

    def __init__(self, class_counts: np.ndarray, settings: config.NclObjective) -> None:
        super().__init__(len(class_counts))
        log_counts = np.log(longtail.positive_counts(class_counts))
        self.register_buffer("log_counts", torch.from_numpy(log_counts).float(), persistent=False)
        self.settings = settings

    def values(self, logits: Float[Tensor, "samples experts classes"], targets: Targets) -> Float[Tensor, " samples"]:
        """Return the sum of the losses on all classes and on the hard classes of each sample."""
        logits, labels = at_least_float32(logits), targets.labels
        adjusted = logits + self.get_buffer("log_counts")
        hard = hard_classes(logits[:, 0], labels, self.settings.hard_classes)
        values = self._balanced(adjusted, labels) + self._balanced(adjusted * hard[:, None], labels)
        contrast, weight = self.settings.contrast, self.settings.contrast_weight
        if contrast is None or weight is None:
            return values
        return values + weight * momentum_contrast(self.required_projections(targets), contrast.temperature)

    def _balanced(
        self, adjusted: Float[Tensor, "samples experts classes"], labels: Int64[Tensor, " samples"]
    ) -> Float[Tensor, " samples"]:
        experts = adjusted.shape[1]
        entropies = torch.stack([losses.cross_entropy(own, labels) for own in adjusted.unbind(dim=1)]).sum(dim=0)
        return entropies + self.settings.mutual_weight / (experts - 1) * mutual_divergence(adjusted)


def hard_classes(
    logits: Float[Tensor, "samples classes"], labels: Int64[Tensor, " samples"], number: int
) -> Bool[Tensor, "samples classes"]:
    """Return whether each class is the label of a sample or one of its `number` - 1 other classes with large logits."""
    ranked = logits.detach().masked_fill(is_label(labels, logits.shape[1]), float("inf")).topk(number, dim=1).indices
    return torch.zeros_like(logits, dtype=torch.bool).scatter(1, ranked, True)


def mutual_divergence(logits: Float[Tensor, "samples experts classes"]) -> Float[Tensor, " samples"]:
    """Return the sum over all ordered pairs of experts i, j of KL(p_j || p_i) for each sample."""
    logs = logits.log_softmax(dim=2)
    probabilities = logs.exp()
    # The sum over i of log p_j - log p_i, for each j. The pair i = j contributes 0.
    differences = logits.shape[1] * logs - logs.sum(dim=1, keepdim=True)
    return (probabilities * differences).sum(dim=(1, 2))
