"""One image, from wherever, to the pixels that evaluation would have seen of it.

A picture is kept as the data set's conversion keeps pictures (shrunk, and through JPEG where that is how they are
stored), and then cropped and resized as evaluation does it, by the same code. So a model sees of a file what it would
have seen had the file been an image of the test split.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import UInt8

from mem.data.augment.crop import center_crops
from mem.data.beton.encoding import JPEG, Encoding, ImageSource, encode
from mem.data.beton.reader import resize_part
from mem.data.codecs.decode import Unreadable


def prepare_image(
    source: ImageSource, encoding: Encoding, side: int, center_crop: float
) -> UInt8[np.ndarray, "{side} {side} 3"]:
    """The central square of an image.

    Args:
        source: Path of a file, content of a file, or pixels (height, width, 3), uint8.
        encoding: How the data set keeps images.
        side: Height and width of the result, in pixels.
        center_crop: Side of the square, as a share of the image's shorter side.

    Raises:
        Unreadable: The source is no whole picture.
        OSError: Its file cannot be read.
    """
    kept = encode(source, encoding)
    stored = np.frombuffer(kept.content, dtype=np.uint8)
    top, left, height, width = center_crops(np.array([kept.height]), np.array([kept.width]), center_crop)[0].tolist()
    out = np.empty((side, side, 3), dtype=np.uint8)
    is_jpeg = kept.mode == JPEG
    scratch = np.empty(kept.height * kept.width * 3 if is_jpeg else 0, dtype=np.uint8)
    done = resize_part(
        stored.ctypes.data,
        len(stored) if is_jpeg else None,
        (kept.height, kept.width),
        (top, left, height, width),
        scratch.ctypes.data,
        out,
    )
    if not done:
        raise Unreadable("is damaged: its JPEG data do not decode")
    return out
