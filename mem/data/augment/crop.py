"""Random crops and flips, computed from each sample's uniform random numbers so that they are reproducible."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float64, Int64

_TRIES = 10
UNIFORMS = 2 * _TRIES + 3
"""Number of uniform random numbers per sample: the area and aspect ratio of each attempt, top, left, and flip."""


def random_resized_crops(
    heights: Int64[np.ndarray, " samples"],
    widths: Int64[np.ndarray, " samples"],
    uniforms: Float64[np.ndarray, "samples uniforms"],
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> Int64[np.ndarray, "samples 4"]:
    """Return top, left, height and width of each sample's crop.

    The distribution is the same as in torchvision (`RandomResizedCrop.get_params`). Each of ten attempts samples an
    area and an aspect ratio, and the first crop that fits into the image is used. If none fits, the largest central
    crop with an allowed aspect ratio is used.
    """
    area = (heights * widths)[:, None]
    target = area * (scale[0] + (scale[1] - scale[0]) * uniforms[:, :_TRIES])
    low, high = np.log(ratio[0]), np.log(ratio[1])
    aspect = np.exp(low + (high - low) * uniforms[:, _TRIES : 2 * _TRIES])
    crop_widths = np.round(np.sqrt(target * aspect)).astype(np.int64)
    crop_heights = np.round(np.sqrt(target / aspect)).astype(np.int64)
    fits = (
        (crop_widths > 0) & (crop_widths <= widths[:, None]) & (crop_heights > 0) & (crop_heights <= heights[:, None])
    )
    first = fits.argmax(axis=1)
    rows = np.arange(len(heights))
    height, width = crop_heights[rows, first], crop_widths[rows, first]
    top = np.floor(uniforms[:, 2 * _TRIES] * (heights - height + 1)).astype(np.int64)
    left = np.floor(uniforms[:, 2 * _TRIES + 1] * (widths - width + 1)).astype(np.int64)

    none_fits = ~fits.any(axis=1)
    if none_fits.any():
        image_ratio = widths / heights
        height = np.where(none_fits, np.where(image_ratio < ratio[0], np.round(widths / ratio[0]), heights), height)
        width = np.where(none_fits, np.where(image_ratio > ratio[1], np.round(heights * ratio[1]), widths), width)
        top = np.where(none_fits, (heights - height) // 2, top)
        left = np.where(none_fits, (widths - width) // 2, left)
    return np.stack([top, left, height, width], axis=1).astype(np.int64)


def flips(uniforms: Float64[np.ndarray, "samples uniforms"]) -> Bool[np.ndarray, " samples"]:
    """Return whether each sample is flipped horizontally. The probability is one half."""
    return uniforms[:, 2 * _TRIES + 2] < 0.5


def center_crops(
    heights: Int64[np.ndarray, " samples"], widths: Int64[np.ndarray, " samples"], share: float
) -> Int64[np.ndarray, "samples 4"]:
    """Return top, left, height and width of a central square whose side is `share` times the image's shorter side."""
    side = np.maximum(1, np.round(np.minimum(heights, widths) * share)).astype(np.int64)
    return np.stack([(heights - side) // 2, (widths - side) // 2, side, side], axis=1)
