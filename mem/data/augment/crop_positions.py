"""Positions of the crops of an image whose logits are averaged, as torchvision computes them.

Source: torchvision 0.29, transforms/functional.py (`_compute_resized_output_size`, `center_crop`, `five_crop`,
`ten_crop`). Images are first resized; positions are pixels of the resized image.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Int64

_FIVE, _CENTER = 5, 4


def resized_sizes(
    heights: Int64[np.ndarray, " images"], widths: Int64[np.ndarray, " images"], resize: int
) -> Int64[np.ndarray, "images 2"]:
    """Return the height and width of each image after its shorter side has been resized to `resize` pixels.

    The longer side is rounded down, as in torchvision's `Resize`.
    """
    shorter, longer = np.minimum(heights, widths), np.maximum(heights, widths)
    new_longer = np.floor(resize * longer / shorter).astype(np.int64)
    return np.stack(
        [np.where(heights <= widths, resize, new_longer), np.where(widths <= heights, resize, new_longer)], axis=1
    ).astype(np.int64)


def are_flipped(crops: Int64[np.ndarray, " images"], number: int) -> Bool[np.ndarray, " images"]:
    """Return whether crops are those of the horizontally flipped image: the second half of 2 or 10 crops.

    Args:
        crops: Index of a crop of each image, from 0.
        number: Number of crops: 2, 5 or 10.
    """
    return (crops >= number // 2) & (number != _FIVE)


def crop_corners(
    sizes: Int64[np.ndarray, "images 2"], side: int, crops: Int64[np.ndarray, " images"], number: int
) -> Int64[np.ndarray, "images 2"]:
    """Return the top and left of a crop in each resized image.

    The order of five crops is top left, top right, bottom left, bottom right, center. The second half of 2 or 10 crops
    is cut from the flipped image; its corners are those of the same pixels in the image itself.

    Args:
        sizes: Heights and widths of the resized images.
        side: Height and width of a crop, in pixels.
        crops: Index of a crop of each image, from 0.
        number: Number of crops: 2 (center and its flip), 5 or 10.
    """
    rest = sizes - side
    # np.rint rounds halves to even numbers, as Python's `round` in torchvision.
    center = np.rint(rest / 2).astype(np.int64)
    position = np.full_like(crops, _CENTER) if number == 2 else crops % _FIVE
    at_bottom, at_right = position // 2 == 1, position % 2 == 1
    corners = np.where(np.stack([at_bottom, at_right], axis=1), rest, 0)
    corners = np.where((position == _CENTER)[:, None], center, corners)
    flipped = are_flipped(crops, number)
    corners[:, 1] = np.where(flipped, rest[:, 1] - corners[:, 1], corners[:, 1])
    return corners
