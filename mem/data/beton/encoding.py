"""What one image of a data set becomes in a .beton file. Imports little, as every worker of a conversion begins so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import UInt8

from mem.data.codecs import decode, jpeg_header
from mem.data.codecs.decode import Unreadable

JPEG, RAW = 0, 1
"""How an image is stored: FFCV's numbers."""
MAX_SIDE = 65_500
"""FFCV's format counts pixels in 16 bit, and libjpeg ends a little below."""

ImageSource = str | bytes | np.ndarray
"""An image: the path of its file, the content of its file, or its pixels (height, width, 3), uint8."""


@dataclass(frozen=True)
class Encoding:
    """How images are kept."""

    storage: str
    """`raw` or `jpeg`."""
    quality: int
    """Of JPEG, 1 to 100."""
    short_side: int | None
    """Larger images are shrunk until their shorter side has this many pixels."""
    resample: str
    """How: see `mem.data.codecs.decode.shrink`."""


class Encoded(NamedTuple):
    """An image as it goes into the file."""

    mode: int
    """`JPEG` or `RAW`."""
    height: int
    width: int
    content: bytes | bytearray | memoryview
    kept: bool
    """Whether a JPEG file went in as it was, without being encoded once more."""


def encode(source: ImageSource, encoding: Encoding) -> Encoded:
    """Decode, shrink, encode.

    A JPEG file that is plain, small enough already and of no higher quality than asked is kept as it is, less its
    metadata: to encode it again would only lose.

    Raises:
        Unreadable: The source is no whole picture.
        OSError: Its file cannot be read.
    """
    content = _content(source)
    image, shrunk = _pixels(content, encoding)
    height, width = image.shape[:2]
    if encoding.storage == "raw":
        return Encoded(RAW, height, width, np.ascontiguousarray(image).reshape(-1).data, False)
    if isinstance(content, bytes) and not shrunk and jpeg_header.is_jpeg(content):
        header = jpeg_header.read_header(content)
        if header.is_plain() and header.at_most(encoding.quality):
            return Encoded(JPEG, height, width, jpeg_header.without_metadata(content, header), True)
    return Encoded(JPEG, height, width, _compress(image, encoding.quality).data, False)


def check_decodes(source: ImageSource, encoding: Encoding) -> None:
    """Prove that `encode` could do its work.

    Raises:
        Unreadable: As `encode`.
        OSError: As `encode`.
    """
    _pixels(_content(source), encoding)


def measure(source: ImageSource, encoding: Encoding, qualities: Sequence[int]) -> tuple[int, ...]:
    """Bytes of an image when raw, and as JPEG of each quality.

    Raises:
        Unreadable: As `encode`.
        OSError: As `encode`.
    """
    image, _ = _pixels(_content(source), encoding)
    return (image.size, *(len(_compress(image, quality)) for quality in qualities))


def _content(source: ImageSource) -> bytes | np.ndarray:
    if isinstance(source, str):
        with open(source, "rb") as file:
            return file.read()
    return source


def _pixels(content: bytes | np.ndarray, encoding: Encoding) -> tuple[UInt8[np.ndarray, "height width 3"], bool]:
    """The image, and whether it was shrunk."""
    whole = decode.decode(content) if isinstance(content, bytes) else content
    image = decode.shrink(whole, encoding.short_side, encoding.resample)
    if max(image.shape[:2]) > MAX_SIDE:
        height, width = image.shape[:2]
        raise Unreadable(f"is {width} x {height} pixels; a side may have {MAX_SIDE:,}: set `short_side`")
    return image, image is not whole


def _compress(image: UInt8[np.ndarray, "height width 3"], quality: int) -> UInt8[np.ndarray, " bytes"]:
    done, content = cv2.imencode(
        ".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [int(cv2.IMWRITE_JPEG_QUALITY), quality]
    )
    assert done
    return content.reshape(-1)
