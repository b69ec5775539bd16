"""Nearest class mean (Kang et al. 2020, section 4.2), which has no settings and needs no gradient descent.

Source: facebookresearch/classifier-balancing, `models/KNNClassifier.py` with `cl2n` features.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from mem.heads.base import Head, pooled_feature


class NcmHead(Head):
    """A classifier whose logits are negative squared distances to the class means of centred, L2-normalised features.

    A class without training images has no mean and is never predicted: its logit is minus infinity.

    Args:
        mean: Mean of all training features.
        centres: Mean of the centred and normalised features of each class.
        present: Whether each class has training images.
    """

    def __init__(
        self, mean: Float[Tensor, " width"], centres: Float[Tensor, "classes width"], present: Bool[Tensor, " classes"]
    ) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("centres", centres)
        self.register_buffer("present", present)

    def forward(self, features: Float[Tensor, "samples *sequence width"]) -> Float[Tensor, "samples classes"]:
        """Return the negative squared distances as logits."""
        z = _centre_and_normalise(pooled_feature(features), self.get_buffer("mean"))
        squared = torch.cdist(z, self.get_buffer("centres"), compute_mode="donot_use_mm_for_euclid_dist").square()
        return (-squared).masked_fill(~self.get_buffer("present"), -torch.inf)


def _centre_and_normalise(
    features: Float[Tensor, "samples width"], mean: Float[Tensor, " width"]
) -> Float[Tensor, "samples width"]:
    """Subtract the mean of the training features, and scale each feature to unit length."""
    return torch.nn.functional.normalize(features - mean, dim=1)


def nearest_class_mean(
    batches: Iterable[tuple[Float[Tensor, "_ width"], Int64[Tensor, " _"]]], classes: int
) -> NcmHead:
    """Compute the class means of the training features in two passes, and return the head.

    Args:
        batches: Features and labels. The iterable is read twice and must yield the same batches each time.
        classes: Number of classes.
    """
    total, images = torch.zeros(()), 0
    for features, _ in batches:
        total, images = total + features.double().sum(dim=0), images + len(features)
    mean = (total / images).float()
    sums = torch.zeros(classes, len(mean), dtype=torch.float64)
    counts = torch.zeros(classes, dtype=torch.float64)
    for features, labels in batches:
        sums.index_add_(0, labels, _centre_and_normalise(features, mean).double())
        counts += torch.bincount(labels, minlength=classes)
    return NcmHead(mean, (sums / counts.clamp(min=1)[:, None]).float(), counts > 0)
