"""Crops of resized images: an image is decoded, resized as a whole, and cut."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64, UInt8

from mem.data.beton.crops import Stored, crop_images, crop_table


@dataclass(frozen=True)
class ResizeAndCrop:
    """Squares to cut from images after the images have been resized. Arrays have one value per image."""

    sizes: Int64[np.ndarray, "images 2"]
    """Height and width to which each image is resized (OpenCV's INTER_AREA)."""
    corners: Int64[np.ndarray, "images 2"]
    """Top and left of the square in the resized image."""
    side: int
    """Height and width of a square, in pixels."""
    flipped: Bool[np.ndarray, " images"]
    """Whether the square is flipped horizontally."""

    def cut(
        self, image: int, resized: UInt8[np.ndarray, "height width 3"], out: UInt8[np.ndarray, "side side 3"]
    ) -> None:
        """Copy the square of a resized image into `out`.

        Args:
            image: Index of the image.
            resized: The image, with the height and width `sizes`.
            out: Destination of shape (side, side, 3).
        """
        top, left = self.corners[image]
        part = resized[top : top + self.side, left : left + self.side]
        out[:] = part[:, ::-1] if self.flipped[image] else part


def resized_image(
    stored: Stored, image: int, height: int, width: int, scratch: UInt8[np.ndarray, " bytes"]
) -> UInt8[np.ndarray, "{height} {width} 3"] | None:
    """Decode a stored image and resize it. Return None if it cannot be decoded.

    Args:
        stored: Location and size of stored images.
        image: Index of the image in `stored`.
        height: Height of the result.
        width: Width of the result.
        scratch: Memory for the decoded image. Used for JPEG data only.
    """
    one = Stored(*(values[image : image + 1] for values in stored))
    whole = np.array([[0, 0, one.heights[0], one.widths[0]]])
    out = np.empty((1, height, width, 3), dtype=np.uint8)
    return out[0] if crop_images(crop_table(one, whole), scratch, out) is None else None
