"""Image encoder for .beton files. It has few imports, because every worker process of a conversion imports it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import UInt8

from mem.data.beton.format import JPEG, MAX_SIDE, RAW
from mem.data.codecs import decode, jpeg_header, turbojpeg
from mem.data.codecs.limits import Unreadable, read_image_file

ImageSource = str | bytes | np.ndarray | Unreadable
"""Path of an image file, its content, uint8 pixels of shape (height, width, 3), or the reason why there are none."""
_MAX_DIFFERENCE = 8
"""Largest mean difference between the pixels of FFCV's inverse DCT and the accurate one. It is usually below 1."""


@dataclass(frozen=True)
class Encoding:
    """Storage settings for images. Conversion journals contain the field names, so they must not change."""

    storage: str
    """`raw` or `jpeg`."""
    quality: int
    """JPEG quality, 1 to 100."""
    short_side: int | None
    """Larger images are shrunk so that their shorter side has this many pixels. None disables shrinking."""
    resample: str
    """Resampling filter; see `mem.data.codecs.decode.shrink`."""


class EncodedImage(NamedTuple):
    """An encoded image, as stored in the file."""

    mode: int
    """`JPEG` or `RAW`."""
    height: int
    width: int
    content: bytes | bytearray | memoryview
    copied: bool
    """Whether the source's JPEG data were copied without re-encoding."""


def encode(source: ImageSource, encoding: Encoding) -> EncodedImage:
    """Decode, shrink and encode an image.

    If images are stored as JPEG, a plain JPEG file is copied without its metadata and without re-encoding, provided
    that it needs no shrinking, its quality does not exceed the requested quality, and the decoder of the training
    accepts it. Re-encoding would only reduce the quality.

    Raises:
        Unreadable: The source is not a complete image.
        OSError: The file cannot be read.
    """
    content = _content(source)
    image, shrunk = _pixels(content, encoding)
    height, width = image.shape[:2]
    if encoding.storage == "raw":
        return EncodedImage(RAW, height, width, np.ascontiguousarray(image).reshape(-1).data, False)
    if isinstance(content, bytes) and not shrunk and jpeg_header.is_jpeg(content):
        header = jpeg_header.read_header(content)
        if header.is_plain() and header.at_most(encoding.quality):
            bare = jpeg_header.without_metadata(content, header)
            if _training_decodes(bare, image):
                return EncodedImage(JPEG, height, width, bare, True)
    return EncodedImage(JPEG, height, width, _compress(image, encoding.quality).data, False)


def check_decodes(source: ImageSource, encoding: Encoding) -> None:
    """Check that the image can be decoded and shrunk, without encoding it.

    Raises:
        Unreadable: See `encode`.
        OSError: See `encode`.
    """
    _pixels(_content(source), encoding)


def measure_sizes(source: ImageSource, encoding: Encoding, qualities: Sequence[int]) -> tuple[int, ...]:
    """Return the size of an image in bytes, first as raw pixels and then as JPEG at each quality.

    Raises:
        Unreadable: See `encode`.
        OSError: See `encode`.
    """
    image, _ = _pixels(_content(source), encoding)
    return (image.size, *(len(_compress(image, quality)) for quality in qualities))


def _content(source: ImageSource) -> bytes | np.ndarray:
    if isinstance(source, Unreadable):
        raise source
    return read_image_file(source) if isinstance(source, str) else source


def _pixels(content: bytes | np.ndarray, encoding: Encoding) -> tuple[UInt8[np.ndarray, "height width 3"], bool]:
    """Return the pixels to store, and whether the image was shrunk."""
    original = decode.decode(content) if isinstance(content, bytes) else content
    image = decode.shrink(original, encoding.short_side, encoding.resample)
    if max(image.shape[:2]) > MAX_SIDE:
        height, width = image.shape[:2]
        raise Unreadable(f"is {width} x {height} pixels; sides are limited to {MAX_SIDE:,}: set `short_side`")
    return image, image is not original


def _training_decodes(content: bytes, image: UInt8[np.ndarray, "height width 3"]) -> bool:
    """Return whether FFCV decodes a colour JPEG file to these pixels.

    FFCV rejects every warning of libjpeg-turbo, and its faster inverse DCT overflows if coefficients are far too large.
    """
    if not jpeg_header.has_all_tables(content):
        return False
    try:
        found = turbojpeg.decode(content, *image.shape[:2], components=3, fast=True)
    except turbojpeg.Damaged:
        return False
    return cv2.norm(found, image, cv2.NORM_L1) <= _MAX_DIFFERENCE * image.size


def _compress(image: UInt8[np.ndarray, "height width 3"], quality: int) -> UInt8[np.ndarray, " bytes"]:
    success, content = cv2.imencode(
        ".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [int(cv2.IMWRITE_JPEG_QUALITY), quality]
    )
    assert success
    return content.reshape(-1)
