"""Views of images that are the crops whose logits are averaged (`evaluate.crops`).

This module imports no augmentations, which `mem predict` and served models do not need.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Int64

from mem.config import Crops
from mem.data.augment.crop_positions import are_flipped, crop_corners, resized_sizes
from mem.data.beton.resize_and_crop import ResizeAndCrop


def crops_of_views(
    heights: Int64[np.ndarray, " samples"],
    widths: Int64[np.ndarray, " samples"],
    views: Int64[np.ndarray, " samples"],
    crops: Crops,
    side: int,
) -> ResizeAndCrop:
    """Return one of the crops whose logits are averaged for each image.

    Args:
        heights: Height of each image.
        widths: Width of each image.
        views: Index of the crop of each image, from 0.
        crops: Number of crops, and size of the resized images.
        side: Height and width of a crop, in pixels.
    """
    sizes = resized_sizes(heights, widths, crops.resize)
    corners = crop_corners(sizes, side, views, crops.number)
    return ResizeAndCrop(sizes, corners, side, are_flipped(views, crops.number))
