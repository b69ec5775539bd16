"""Preprocessing of a single image, identical to the preprocessing of the test split.

The image is encoded as in dataset conversion (shrunk, and compressed if the dataset stores JPEG). It is then cropped
and resized as in evaluation, with one central square or with several crops. The model therefore receives the same
pixels as for an image in the test split.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import UInt8

from mem.config import Crops
from mem.data.augment.crop import center_crops
from mem.data.beton.crops import Stored, crop_images, crop_table
from mem.data.beton.encoding import JPEG, Encoding, ImageSource, encode
from mem.data.beton.resize_and_crop import resized_image
from mem.data.codecs.decode import Unreadable
from mem.data.loading.crop_views import crops_of_views


def prepare_image(
    source: ImageSource, encoding: Encoding, side: int, center_crop: float, crops: Crops | None = None
) -> UInt8[np.ndarray, "*crops {side} {side} 3"]:
    """Encode an image as in dataset conversion, and cut and resize squares as in evaluation.

    Args:
        source: Path of an image file, content of an image file, or uint8 pixels of shape (height, width, 3).
        encoding: How the dataset stores images.
        side: Height and width of the returned pixels.
        center_crop: Side of the central square as a fraction of the image's shorter side.
        crops: Several crops per image, which are then the first dimension of the result. None means the central square.

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
    if crops is not None:
        return _several_crops(stored, scratch, side, crops)
    out = np.empty((1, side, side, 3), dtype=np.uint8)
    if crop_images(crop_table(stored, center_crops(heights, widths, center_crop)), scratch, out) is not None:
        raise _damaged()
    return out[0]


def _several_crops(
    stored: Stored, scratch: UInt8[np.ndarray, " bytes"], side: int, crops: Crops
) -> UInt8[np.ndarray, "crops {side} {side} 3"]:
    """Return all crops of the only image in `stored`, which is decoded and resized once."""
    views = np.arange(crops.number)
    heights, widths = (np.repeat(values, crops.number) for values in (stored.heights, stored.widths))
    cuts = crops_of_views(heights, widths, views, crops, side)
    height, width = cuts.sizes[0].tolist()
    resized = resized_image(stored, 0, height, width, scratch)
    if resized is None:
        raise _damaged()
    out = np.empty((crops.number, side, side, 3), dtype=np.uint8)
    for view in views.tolist():
        cuts.cut(view, resized, out[view])
    return out


def _damaged() -> Unreadable:
    return Unreadable("is damaged: its JPEG data cannot be decoded")
