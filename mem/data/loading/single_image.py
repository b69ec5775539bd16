"""Preprocessing of a single image, identical to the preprocessing of the test split.

The image is encoded as in dataset conversion (shrunk, and compressed if the dataset stores JPEG). It is then cropped
and resized as in evaluation. The model therefore receives the same pixels as for an image in the test split.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import UInt8

from mem.data.augment.crop import center_crops
from mem.data.beton.crops import Stored, crop_images, crop_table
from mem.data.beton.encoding import JPEG, Encoding, ImageSource, encode
from mem.data.codecs.decode import Unreadable


def prepare_image(
    source: ImageSource, encoding: Encoding, side: int, center_crop: float
) -> UInt8[np.ndarray, "{side} {side} 3"]:
    """Encode an image as in dataset conversion, crop its central square, and resize the square.

    Args:
        source: Path of an image file, content of an image file, or uint8 pixels of shape (height, width, 3).
        encoding: How the dataset stores images.
        side: Height and width of the returned pixels.
        center_crop: Side of the square as a fraction of the image's shorter side.

    Raises:
        Unreadable: The source is not a complete image.
        OSError: The file cannot be read.
    """
    encoded = encode(source, encoding)
    content = np.frombuffer(encoded.content, dtype=np.uint8)
    is_jpeg = encoded.mode == JPEG
    heights, widths = np.array([encoded.height]), np.array([encoded.width])
    stored = Stored(np.array([content.ctypes.data]), np.array([len(content) if is_jpeg else -1]), heights, widths)
    scratch = np.empty(encoded.height * encoded.width * 3 if is_jpeg else 0, dtype=np.uint8)
    out = np.empty((1, side, side, 3), dtype=np.uint8)
    if crop_images(crop_table(stored, center_crops(heights, widths, center_crop)), scratch, out) is not None:
        raise Unreadable("is damaged: its JPEG data cannot be decoded")
    return out[0]
