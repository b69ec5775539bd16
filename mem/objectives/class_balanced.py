"""Class-balanced loss (Cui et al. 2019): softmax, sigmoid or focal loss with weights by the effective number."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mem import config, losses
from mem.objectives.base import FinetuningLoss, Targets, at_least_float32, is_label
from mem.objectives.reweighting import inverse_effective_numbers


class ClassBalanced(FinetuningLoss):
    """The loss of each sample times the weight of its class. The weights add up to the number of classes.

    The weights are proportional to (1 - beta) / (1 - beta^n_k) (Cui et al. 2019, section 4). The weighted loss is

    - `softmax`: cross-entropy (section 4.1);
    - `sigmoid`: the sum over classes of binary cross-entropies (section 4.2);
    - `focal`: the sum over classes of (1 - p_t)^gamma times the binary cross-entropy, where p_t is the probability of
      the binary target (section 4.3).

    As in the official code (`_tower_fn` and `focal_loss` in `src/cifar_main.py`), the loss is the sum over the samples
    divided by the number of samples, and all binary terms of a sample have the weight of its label.

    With sigmoids, the official code initialises the biases of the classifier with -log(C - 1), so that each class has
    the probability 1 / C before training, and does not apply weight decay to them. Here, this number is added to the
    logits in the loss. Training is the same, except that the bias of the classifier is the difference from this number.
    It is the same for all classes, so predictions do not change.

    Args:
        class_counts: Number of training images of each class; at least two classes for sigmoids.
        settings: beta, the weighted loss and gamma.
    """

    accepts_mixed_samples = False

    def __init__(self, class_counts: np.ndarray, settings: config.ClassBalancedObjective) -> None:
        super().__init__(len(class_counts))
        weights = inverse_effective_numbers(class_counts, settings.beta)
        weights = weights / weights.mean()
        self.register_buffer("weights", torch.from_numpy(weights).float(), persistent=False)
        self.settings = settings

    def values(self, logits: Float[Tensor, "samples classes"], targets: Targets) -> Float[Tensor, " samples"]:
        """Return the weighted loss of each sample."""
        logits, labels = at_least_float32(logits), targets.labels
        if self.settings.loss == "softmax":
            values = losses.cross_entropy(logits, labels)
        else:
            values = sigmoid_focal_loss(logits - math.log(self.classes - 1), targets, self.settings.gamma or 0.0)
        return self.get_buffer("weights")[labels] * values


def sigmoid_focal_loss(
    logits: Float[Tensor, "samples classes"], targets: Targets, gamma: float
) -> Float[Tensor, " samples"]:
    """Return the sum over classes of (1 - p_t)^gamma times the binary cross-entropy (Lin et al. 2017, eq. 4).

    With gamma 0, this is the sum of the binary cross-entropies.
    """
    # The probability of the binary target is sigmoid(signed).
    signed = torch.where(is_label(targets.labels, logits.shape[1]), logits, -logits)
    values = -F.logsigmoid(signed)
    if gamma:
        values = (gamma * F.logsigmoid(-signed)).exp() * values
    return values.sum(dim=1)
