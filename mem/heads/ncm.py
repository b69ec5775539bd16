"""Nearest class mean (Kang et al. 2020, section 4.2): no training, no setting.

Source of the details: facebookresearch/classifier-balancing, `models/KNNClassifier.py` with `cl2n` features.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from mem.heads.base import Head, pool_tokens


class Ncm(Head):
    """Logits are minus the squared distances to the class means of centred, L2-normalised features.

    A class without a training image has no mean and is never predicted: its logit is minus infinity.
    """

    def __init__(
        self, mean: Float[Tensor, " width"], centres: Float[Tensor, "classes width"], present: Bool[Tensor, " classes"]
    ) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("centres", centres)
        self.register_buffer("present", present)

    def forward(self, features: Float[Tensor, "samples *sequence width"]) -> Float[Tensor, "samples classes"]:
        """Minus the squared distances."""
        z = normalised(pool_tokens(features), self.get_buffer("mean"))
        squared = torch.cdist(z, self.get_buffer("centres"), compute_mode="donot_use_mm_for_euclid_dist").square()
        return (-squared).masked_fill(~self.get_buffer("present"), -torch.inf)


def normalised(
    features: Float[Tensor, "samples width"], mean: Float[Tensor, " width"]
) -> Float[Tensor, "samples width"]:
    """Features minus the training mean, of length 1."""
    return torch.nn.functional.normalize(features - mean, dim=1)


def nearest_class_mean(batches: Iterable[tuple[Float[Tensor, "_ width"], Int64[Tensor, " _"]]], classes: int) -> Ncm:
    """The head of training features, which are gone through twice.

    Args:
        batches: Features and labels; must give the same each time it is iterated over.
        classes: Number of classes.
    """
    total, images = torch.zeros(()), 0
    for features, _ in batches:
        total, images = total + features.double().sum(dim=0), images + len(features)
    mean = (total / images).float()
    sums = torch.zeros(classes, len(mean), dtype=torch.float64)
    counts = torch.zeros(classes, dtype=torch.float64)
    for features, labels in batches:
        sums.index_add_(0, labels, normalised(features, mean).double())
        counts += torch.bincount(labels, minlength=classes)
    return Ncm(mean, (sums / counts.clamp(min=1)[:, None]).float(), counts > 0)
