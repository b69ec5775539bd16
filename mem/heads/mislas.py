"""Stage 2 of MiSLAS: label-aware smoothing and learned factors (Zhong et al. 2021, sections 3.3 and 3.4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from mem.heads.base import Head, Linear, accuracy, pooled_feature


def label_aware_smoothing(class_counts: np.ndarray, head: float, tail: float) -> Float[Tensor, " classes"]:
    """Return the label smoothing of each class (eq. 6 of the paper, the concave form, which its recipes use).

    The smoothing of a class with n images is tail + (head - tail) sin(pi (n - n_min) / (2 (n_max - n_min))), where
    n_min and n_max are the smallest and the largest number of images of the classes that have images. If they are
    equal, every class has the smoothing `tail`; the official code divides by zero.

    Args:
        class_counts: Number of training images of each class. A class without images has the smoothing `tail`.
        head: Smoothing of the class with the most images.
        tail: Smoothing of the class with the fewest images.
    """
    fewest = class_counts[class_counts > 0].min(initial=class_counts.max())
    excess = np.maximum(class_counts - fewest, 0)
    position = excess / max(int(excess.max()), 1)
    return torch.from_numpy(tail + (head - tail) * np.sin(np.pi / 2 * position)).float()


def smoothed_cross_entropy(
    logits: Float[Tensor, "samples classes"],
    labels: Int64[Tensor, " samples"],
    smoothing: Float[Tensor, " classes"],
) -> Float[Tensor, " samples"]:
    """Return the cross-entropy of each sample with the label smoothing of its class.

    The loss is (1 - e) (-log p_y) + e times the mean over all classes of -log p, with the smoothing e of the class y.
    """
    log_probabilities = logits.log_softmax(dim=1)
    own = log_probabilities.gather(1, labels[:, None]).squeeze(1)
    share = smoothing[labels]
    return -(1 - share) * own - share * log_probabilities.mean(dim=1)


class MislasHead(Head):
    """A classifier with logits s_k (W_k z + b_k), trained with label-aware smoothing.

    The factors s_k start from 1. W and b start from the finetuned classifier, and are trained with a smaller learning
    rate. The weight decay applies to all of them, and both learning rates follow the same cosine schedule, as in the
    official code (dvlab-research/MiSLAS at 0fc381e, train_stage2.py).

    Differences from the official code: the learning rate decreases with every step, not with every epoch. An epoch has
    N / B steps instead of ceil(N / B) + 1 for N images and batches of B. The augmented views are stored once, unless
    features are computed online. The BatchNorm statistics do not move while the head is trained; `features.batch_norm`
    moves them before. The last step gives the result, not the epoch with the highest test accuracy.

    Args:
        start: The classifier before training.
        smoothing: Label smoothing of each class.
        classifier_lr_factor: Ratio of the learning rate of W and b to that of the factors.
    """

    def __init__(self, start: Linear, smoothing: Float[Tensor, " classes"], classifier_lr_factor: float) -> None:
        super().__init__()
        linear = start.as_linear()
        assert linear.bias is not None
        self.weight, self.bias = linear.weight, linear.bias
        self.scale = nn.Parameter(torch.ones_like(linear.bias))
        self.register_buffer("smoothing", smoothing, persistent=False)
        self._classifier_lr_factor = classifier_lr_factor

    def forward(self, features: Float[Tensor, "samples *sequence width"]) -> Float[Tensor, "samples classes"]:
        """Return the logits."""
        return self.scale * nn.functional.linear(pooled_feature(features), self.weight, self.bias)

    def loss(
        self, features: Float[Tensor, "samples *sequence width"], labels: Int64[Tensor, " samples"]
    ) -> tuple[Float[Tensor, ""], Mapping[str, Tensor]]:
        """Return the mean cross-entropy with label-aware smoothing, and the accuracy in percent."""
        logits = self(features)
        loss = smoothed_cross_entropy(logits, labels, self.get_buffer("smoothing"))
        return loss.mean(), {"acc1": 100 * accuracy(logits, labels)}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the factors, and the classifier with its own learning rate."""
        return [
            {"params": [self.scale]},
            {"params": [self.weight, self.bias], "lr_scale": self._classifier_lr_factor},
        ]

    def as_linear(self) -> Linear:
        """Return the linear classifier with the scaled weights and biases."""
        scale = self.scale.detach()
        return Linear(scale[:, None] * self.weight.detach(), scale * self.bias.detach())
