"""Random erasing (Zhong et al. 2020) as in timm's `pixel` mode: fills a rectangle of the normalised image with noise.

The rectangle and its noise depend only on the sample's random numbers. The noise is a hash of the sample's keys and the
pixel's position, so the number of ranks and the micro-batch size do not affect it. It is computed on the image's
device, so it does not have to be copied there.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from mem.data.batch import Batch, to_device

_TRIES = 10
UNIFORMS = 1 + 2 * _TRIES + 2 + 2
"""Number of uniform random numbers per sample.

They determine whether to erase, the area and aspect ratio of each attempt, top, left, and two noise keys.
"""
_AREA = (0.02, 1 / 3)
"""Minimum and maximum area of the rectangle as a fraction of the image area (timm's defaults, as in the MAE recipe)."""
_ASPECT = 0.3
"""Minimum ratio of the rectangle's height to its width. The maximum is the inverse."""


def rectangles(
    uniforms: Float64[np.ndarray, "samples numbers"], probability: float, rows: int, columns: int
) -> Int64[np.ndarray, "samples 4"]:
    """Return top, left, height and width of each sample's rectangle, or zeros if the sample is not erased."""
    area = rows * columns * (_AREA[0] + (_AREA[1] - _AREA[0]) * uniforms[:, 1 : 1 + _TRIES])
    aspect = np.exp(math.log(_ASPECT) * (1 - 2 * uniforms[:, 1 + _TRIES : 1 + 2 * _TRIES]))
    heights = np.round(np.sqrt(area * aspect)).astype(np.int64)
    widths = np.round(np.sqrt(area / aspect)).astype(np.int64)
    fits = (heights < rows) & (widths < columns)
    first = fits.argmax(axis=1)
    sample = np.arange(len(uniforms))
    height, width = heights[sample, first], widths[sample, first]
    top = np.floor(uniforms[:, 1 + 2 * _TRIES] * (rows - height + 1)).astype(np.int64)
    left = np.floor(uniforms[:, 2 + 2 * _TRIES] * (columns - width + 1)).astype(np.int64)
    erased = (uniforms[:, 0] < probability) & fits.any(axis=1)
    return np.where(erased[:, None], np.stack([top, left, height, width], axis=1), 0)


def random_erase(
    images: Float[Tensor, "samples channels rows columns"], batch: Batch, probability: float
) -> Float[Tensor, "samples channels rows columns"]:
    """In randomly selected images of a batch, fill a random rectangle with standard normal noise.

    Args:
        images: The normalised images.
        batch: The batch that the images belong to, which provides the random numbers.
        probability: Probability that an image is erased.
    """
    if probability == 0:
        return images
    uniforms = batch.numbers("erasing", UNIFORMS)
    boxes = rectangles(uniforms, probability, *images.shape[2:])
    chosen = np.flatnonzero(boxes[:, 2] * boxes[:, 3])
    if not len(chosen):
        return images
    keys = np.floor(uniforms[chosen, -2:] * 2**32).astype(np.uint32).view(np.int32)
    inside = inside_boxes(boxes[chosen], images)
    indices = to_device(torch.from_numpy(chosen), images.device)
    noise = normal_noise(to_device(torch.from_numpy(keys), images.device), images.shape[1:])
    return images.index_copy(0, indices, torch.where(inside, noise.to(images.dtype), images[indices]))


def inside_boxes(boxes: Int64[np.ndarray, "samples 4"], images: Tensor) -> Tensor:
    """Return a mask of the pixels in each sample's box, of shape (samples, 1, rows, columns), on the images' device."""
    top, left, height, width = to_device(torch.from_numpy(boxes), images.device).T[:, :, None]
    row, column = (torch.arange(length, device=images.device) for length in images.shape[2:])
    in_rows = (row >= top) & (row < top + height)
    in_columns = (column >= left) & (column < left + width)
    return (in_rows[:, :, None] & in_columns[:, None, :])[:, None]


def normal_noise(keys: Tensor, shape: torch.Size) -> Tensor:
    """Compute standard normal noise of shape (samples, *shape) from int32 keys of shape (samples, 2)."""
    position = torch.arange(math.prod(shape), dtype=torch.int32, device=keys.device)
    bits = _mix_bits(_mix_bits(position + keys[:, :1]) ^ keys[:, 1:])
    uniform = ((bits >> 8) & 0xFFFFFF).float().add_(0.5).mul_(2.0**-24)
    return torch.special.ndtri(uniform).view(len(keys), *shape)


def _mix_bits(x: Tensor) -> Tensor:
    """Apply MurmurHash3's 32-bit finaliser (Appleby; public domain). Every output bit depends on every input bit."""
    x = (x ^ ((x >> 16) & 0xFFFF)) * -2048144789  # 0x85EBCA6B
    x = (x ^ ((x >> 13) & 0x7FFFF)) * -1028477387  # 0xC2B2AE35
    return x ^ ((x >> 16) & 0xFFFF)
