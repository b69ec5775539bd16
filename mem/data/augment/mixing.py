"""Mixup (Zhang et al. 2018) and CutMix (Yun et al. 2019).

Each sample has its own mixing weight and box, or a number of consecutive samples share them. The distributions are the
same as in timm's `Mixup(mode="elem")` and `Mixup(mode="batch")` (1.0.31, timm/data/mixup.py), but the partners differ.
Here, training samples 2k and 2k + 1 are mixed with each other. Both samples of such a pair stay on the same rank and in
the same micro-batch (see `Batch.group_size`), so the number of ranks and the micro-batch size do not affect the result.
timm mixes each sample with the one at the mirrored position in the batch. Its partners, and in the mode "batch" the
samples that share a mixing weight, therefore depend on the number of samples that a device processes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from scipy.special import betaincinv
from torch import Tensor

from mem import rng
from mem.data.augment.erasing import inside_boxes
from mem.data.batch import Batch, to_device

PAIR = 2
"""Number of consecutive samples that must stay on the same rank and in the same micro-batch."""
UNIFORMS = 5
"""Number of uniform random numbers per sample.

They determine whether to mix, whether to use CutMix, the mixing weight, and the row and column of the box centre.
"""


@dataclass(frozen=True)
class Mixing:
    """Settings for mixup and CutMix."""

    mixup: float
    """Parameter of the Beta distribution of mixup's mixing weights; 0 disables mixup."""
    cutmix: float
    """Parameter of the Beta distribution of CutMix's mixing weights; 0 disables CutMix."""
    probability: float
    """Probability that a sample is mixed."""
    switch: float
    """Probability that a mixed sample uses CutMix, if both mixup and CutMix are enabled."""
    batch: int = 1
    """Number of consecutive samples, counted from the start of training, that share their random numbers."""


@dataclass(frozen=True)
class MixedSamples:
    """Mixed images, each with two labels and the weight of the first label."""

    images: Float[Tensor, "samples channels rows columns"]
    labels: Int64[Tensor, " samples"]
    partner_labels: Int64[Tensor, " samples"]
    """Labels of the images that were mixed in."""
    shares: Float[Tensor, " samples"]
    """Weight of `labels`. The weight of `partner_labels` is 1 minus this value."""

    @property
    def main_labels(self) -> Int64[Tensor, " samples"]:
        """For each sample, the label with the larger weight."""
        return torch.where(self.shares >= 0.5, self.labels, self.partner_labels)


def mix(images: Float[Tensor, "samples channels rows columns"], batch: Batch, mixing: Mixing) -> MixedSamples:
    """Mix the normalised images of a batch.

    Raises:
        ValueError: The batch starts or ends within a pair.
    """
    if batch.first % PAIR or len(batch) % PAIR:
        raise ValueError(f"samples {batch.first} to {batch.first + len(batch) - 1} are not complete pairs")
    shares, boxes, uses_cutmix = sample_mixing(_uniforms(batch, mixing.batch), mixing, *images.shape[2:])
    share = to_device(torch.from_numpy(shares).to(images.dtype), images.device)
    mixup_weight = share[:, None, None, None]
    is_cutmix = to_device(torch.from_numpy(uses_cutmix), images.device)[:, None, None, None]
    weight = torch.where(is_cutmix, (~inside_boxes(boxes, images)).to(images.dtype), mixup_weight)
    mixed = torch.lerp(_swap_neighbours(images), images, weight)
    return MixedSamples(mixed, batch.labels, _swap_neighbours(batch.labels), share)


def _uniforms(batch: Batch, shared_by: int) -> Float64[np.ndarray, "samples 5"]:
    """Return the random numbers of each sample. Samples that share their numbers have those of the first of them."""
    if shared_by == 1:
        return batch.numbers("mixing", UNIFORMS)
    samples = np.arange(batch.first, batch.first + len(batch))
    firsts, positions = np.unique(samples // shared_by * shared_by, return_inverse=True)
    return rng.uniforms_at(batch.seed, "mixing", firsts, UNIFORMS)[positions]


def sample_mixing(
    uniforms: Float64[np.ndarray, "samples 5"], mixing: Mixing, rows: int, columns: int
) -> tuple[Float64[np.ndarray, " samples"], Int64[np.ndarray, "samples 4"], Bool[np.ndarray, " samples"]]:
    """Sample the mixing parameters of each image.

    Returns:
        For each image: its own weight, the CutMix box (top, left, height, width), and whether CutMix is used.
    """
    apply, switch, amount, y, x = uniforms.T
    cut = (switch < mixing.switch) if mixing.mixup and mixing.cutmix else np.full(len(uniforms), bool(mixing.cutmix))
    share = np.where(cut, _beta(amount, mixing.cutmix), _beta(amount, mixing.mixup))
    share = np.where(apply < mixing.probability, share, 1.0)
    boxes = _boxes(share, y, x, rows, columns)
    # Boxes are clipped at the image borders, so the weight is computed from the clipped box.
    share = np.where(cut, 1 - boxes[:, 2] * boxes[:, 3] / (rows * columns), share)
    return share, boxes, cut


def _beta(uniforms: Float64[np.ndarray, " samples"], alpha: float) -> Float64[np.ndarray, " samples"]:
    """Sample from Beta(alpha, alpha) by inverting the cumulative distribution function. Return ones if alpha is 0."""
    return betaincinv(alpha, alpha, uniforms) if alpha else np.ones(len(uniforms))


def _boxes(share: np.ndarray, y: np.ndarray, x: np.ndarray, rows: int, columns: int) -> Int64[np.ndarray, "samples 4"]:
    ratio = np.sqrt(1 - share)
    edges: list[np.ndarray] = []
    for center, length in ((np.floor(y * rows), rows), (np.floor(x * columns), columns)):
        side = np.floor(length * ratio)
        low = np.clip(center - side // 2, 0, length)
        edges += [low, np.clip(center + (side + 1) // 2, 0, length) - low]
    top, height, left, width = edges
    return np.stack([top, left, height, width], axis=1).astype(np.int64)


def _swap_neighbours(values: Tensor) -> Tensor:
    """Swap samples 2k and 2k + 1."""
    return values.unflatten(0, (-1, PAIR)).flip(1).flatten(0, 1)
