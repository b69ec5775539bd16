"""Decoder for image files. Returns the pixels, or raises an error that states why a file is not a complete image.

The decoder handles these special cases:

- Images are rotated and flipped according to their orientation (see `mem.data.codecs.orientation`).
- Grayscale, palette, CMYK and YCCK images become RGB. In JPEG files, CMYK and YCCK
  values are interpreted as inverted, as written by Adobe software.
- Transparent parts are composited on white.
- Values of more than 8 bits are reduced to the 8 highest of their declared bits, which preserves the full value range.
- Only the first frame of an animation and the first page of a TIFF file are read.
- Colour profiles are not applied. Damaged metadata do not affect the pixels.
- A truncated file is always an error.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import threading
from collections.abc import Iterator

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from mem.data.codecs import jpeg_header, turbojpeg, with_pillow
from mem.data.codecs.limits import MAX_PIXELS, MAX_SIDE, Unreadable, check_file_size
from mem.data.codecs.orientation import upright
from mem.data.codecs.with_pillow import FORMATS

__all__ = ["FORMATS", "Unreadable", "decode", "shrink"]

_HARMLESS_WARNING = re.compile(r"\b\d{1,2} extraneous bytes before marker|Adobe color transform|JFIF revision")
"""Pattern for libjpeg-turbo warnings that a complete image can cause. For example, some cameras pad their files.

The pattern excludes 100 or more extraneous bytes, which mean that the decoder lost its position. libjpeg-turbo reports
only its first warning. If that warning is harmless, Pillow decodes the image and checks for truncation.
"""
_INCOMPLETE_SPECTRUM = "Invalid SOS parameters for sequential JPEG"
"""Warning about a scan header that specifies some coefficients only, as some cameras write it by mistake."""
_LARGE = 32_000_000
"""Images with more pixels than this are decoded one at a time in a process, so that threads do not exhaust memory."""
_large_image = threading.Lock()


def decode(content: bytes) -> UInt8[np.ndarray, "height width 3"]:
    """Decode the content of an image file to upright RGB pixels.

    Raises:
        Unreadable: The content is not a complete image, or exceeds the limits in `mem.data.codecs.limits`.
        OSError: Memory ran out. The image may be readable on another machine, so it is not called unreadable.
    """
    if not content:
        raise Unreadable("is empty (0 bytes)")
    check_file_size(len(content))
    try:
        return _decode_jpeg(content) if jpeg_header.is_jpeg(content) else _decode_other(content)
    except MemoryError:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)) from None


def shrink(
    image: UInt8[np.ndarray, "height width 3"], short_side: int | None, resample: str
) -> UInt8[np.ndarray, "rows columns 3"]:
    """Shrink an image so that its shorter side is `short_side` pixels long. Smaller images are returned unchanged.

    Args:
        image: The image.
        short_side: Length of the shorter side in pixels, or None to return the image unchanged.
        resample: `area` (OpenCV's INTER_AREA: the mean of the area that a pixel covers) or `lanczos` (Pillow's LANCZOS,
            which is sharper and slower).
    """
    height, width = image.shape[:2]
    if short_side is None or min(height, width) <= short_side:
        return image
    factor = short_side / min(height, width)
    size = (short_side, round(height * factor)) if width <= height else (round(width * factor), short_side)
    if resample == "area":
        return cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))


def _decode_jpeg(content: bytes) -> np.ndarray:
    try:
        header = jpeg_header.read_header(content)
    except jpeg_header.NotAJpeg as error:
        raise Unreadable(str(error)) from None
    if header.components not in (1, 3, 4):
        raise Unreadable(f"is a JPEG file with {header.components} components; 1, 3 or 4 are supported")
    with _within_limits(header.width, header.height):
        try:
            image = _decode_jpeg_strictly(content, header)
        except turbojpeg.Damaged as damage:
            unsupported = isinstance(damage, turbojpeg.Unsupported)
            if not unsupported and (damage.fatal or not _HARMLESS_WARNING.search(str(damage))):
                raise Unreadable(f"is damaged or truncated: {damage}") from None
            bare = jpeg_header.without_metadata(content, header)
            image, _ = with_pillow.read(bare, lambda width, height: contextlib.nullcontext())
        return upright(image, header.orientation)


def _decode_jpeg_strictly(content: bytes, header: jpeg_header.Header) -> np.ndarray:
    size = header.height, header.width, header.components
    try:
        image = turbojpeg.decode(content, *size)
    except turbojpeg.Damaged as damage:
        if damage.fatal or not header.sequential or _INCOMPLETE_SPECTRUM not in str(damage):
            raise
        image = turbojpeg.decode(jpeg_header.with_complete_spectrum(content, header), *size)
    return _cmyk_to_rgb(image) if header.components == 4 else image


def _cmyk_to_rgb(inks: UInt8[np.ndarray, "height width 4"]) -> UInt8[np.ndarray, "height width 3"]:
    """Convert inverted CMYK to RGB. Inverted values give the fraction of the paper that the ink leaves white."""
    rgb = np.empty((*inks.shape[:2], 3), dtype=np.uint8)
    for row in range(len(inks)):  # row by row, because the products need twice the memory
        products = inks[row, :, :3].astype(np.uint16) * inks[row, :, 3:]
        rgb[row] = (products + 127) // 255
    return rgb


def _decode_other(content: bytes) -> np.ndarray:
    image, orientation = with_pillow.read(content, _within_limits)
    return upright(image, orientation)


@contextlib.contextmanager
def _within_limits(width: int, height: int) -> Iterator[None]:
    """Check the size of an image. Within this context, no other large image is decoded.

    Raises:
        Unreadable: The image exceeds the limits.
    """
    if width * height > MAX_PIXELS:
        raise Unreadable(f"declares {width} x {height} pixels; the limit is {MAX_PIXELS:,}")
    if max(width, height) > MAX_SIDE:
        raise Unreadable(f"declares {width} x {height} pixels; sides are limited to {MAX_SIDE:,}")
    with _large_image if width * height > _LARGE else contextlib.nullcontext():
        yield
