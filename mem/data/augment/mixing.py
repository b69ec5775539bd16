"""Mixup (Zhang et al. 2018) and CutMix (Yun et al. 2019), each sample with a share and a place of its own.

What is drawn is drawn as in timm's `Mixup(mode="elem")` (1.0.31, timm/data/mixup.py). A sample's partner is its
neighbour: sample 2k of a training mixes with 2k + 1 and 2k + 1 with 2k, where timm takes the mirrored place in the
batch. The mirrored place depends on how large the part of the batch is that a device sees; neighbours stay together
in every part with even bounds, so that ranks and micro-batches change nothing (see `Batch.together`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from scipy.special import betaincinv
from torch import Tensor

from mem.data.augment.erasing import inside_boxes
from mem.data.loading.batch import Batch

PAIR = 2
"""Samples that must be in the same part of a batch."""
NUMBERS = 5
"""Whether; which of the two; how much; the box's middle."""


@dataclass(frozen=True)
class Mixing:
    """How samples are mixed."""

    mixup: float
    """Parameter of the Beta distribution that mixup's shares come from; 0 is no mixup."""
    cutmix: float
    """Likewise for CutMix."""
    probability: float
    """That a sample is mixed at all."""
    switch: float
    """That it is CutMix, where both are on."""


@dataclass(frozen=True)
class Mixed:
    """Samples after mixing: images, and labels of which each counts with a share."""

    images: Float[Tensor, "samples channels rows columns"]
    labels: Int64[Tensor, " samples"]
    partners: Int64[Tensor, " samples"]
    """The other picture's label."""
    shares: Float[Tensor, " samples"]
    """What `labels` counts; `partners` counts the rest."""

    @property
    def main(self) -> Int64[Tensor, " samples"]:
        """The label that counts more."""
        return torch.where(self.shares >= 0.5, self.labels, self.partners)


def mixed(images: Float[Tensor, "samples channels rows columns"], batch: Batch, mixing: Mixing) -> Mixed:
    """Mix the normalised images of a batch.

    Raises:
        ValueError: The batch has half a pair.
    """
    if batch.first % PAIR or len(batch) % PAIR:
        raise ValueError(f"samples {batch.first} to {batch.first + len(batch) - 1} are not whole pairs")
    shares, boxes, cut = choices(batch.numbers("mixing", NUMBERS), mixing, *images.shape[2:])
    on_device = {"device": images.device, "non_blocking": True}
    share = torch.from_numpy(shares).to(images.dtype).to(**on_device)
    whole = share[:, None, None, None]
    is_cut = torch.from_numpy(cut).to(**on_device)[:, None, None, None]
    weight = torch.where(is_cut, (~inside_boxes(boxes, images)).to(images.dtype), whole)
    return Mixed(torch.lerp(_partners(images), images, weight), batch.labels, _partners(batch.labels), share)


def choices(
    uniforms: Float64[np.ndarray, "samples 5"], mixing: Mixing, rows: int, columns: int
) -> tuple[Float64[np.ndarray, " samples"], Int64[np.ndarray, "samples 4"], Bool[np.ndarray, " samples"]]:
    """Each sample's share of itself; the box (top, left, height, width) for its partner; whether it has that box."""
    apply, switch, amount, y, x = uniforms.T
    cut = (switch < mixing.switch) if mixing.mixup and mixing.cutmix else np.full(len(uniforms), bool(mixing.cutmix))
    share = np.where(cut, _beta(amount, mixing.cutmix), _beta(amount, mixing.mixup))
    share = np.where(apply < mixing.probability, share, 1.0)
    boxes = _boxes(share, y, x, rows, columns)
    # The borders cut boxes off, so that the share is what the box leaves.
    share = np.where(cut, 1 - boxes[:, 2] * boxes[:, 3] / (rows * columns), share)
    return share, boxes, cut


def _beta(uniforms: Float64[np.ndarray, " samples"], alpha: float) -> Float64[np.ndarray, " samples"]:
    """Numbers of the distribution Beta(alpha, alpha), by its inverse; ones for alpha 0."""
    return betaincinv(alpha, alpha, uniforms) if alpha else np.ones(len(uniforms))


def _boxes(share: np.ndarray, y: np.ndarray, x: np.ndarray, rows: int, columns: int) -> Int64[np.ndarray, "samples 4"]:
    ratio = np.sqrt(1 - share)
    edges: list[np.ndarray] = []
    for middle, length in ((np.floor(y * rows), rows), (np.floor(x * columns), columns)):
        side = np.floor(length * ratio)
        low = np.clip(middle - side // 2, 0, length)
        edges += [low, np.clip(middle + (side + 1) // 2, 0, length) - low]
    top, height, left, width = edges
    return np.stack([top, left, height, width], axis=1).astype(np.int64)


def _partners(values: Tensor) -> Tensor:
    """Neighbours in each other's place."""
    return values.unflatten(0, (-1, PAIR)).flip(1).flatten(0, 1)
