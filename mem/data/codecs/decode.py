"""Decoder for image files. Returns the pixels, or raises an error that states why a file is not a complete image.

The decoder handles these special cases:

- Images are rotated and flipped according to their Exif orientation.
- Grayscale, palette, CMYK and YCCK images become RGB. In JPEG files, CMYK and YCCK
  values are interpreted as inverted, as written by Adobe software.
- Transparent parts are composited on white.
- 16-bit values are reduced to their high byte, which preserves the full value range.
- Only the first frame of an animation and the first page of a TIFF file are read.
- Colour profiles are not applied.
- A truncated file is always an error.
"""

from __future__ import annotations

import io
import re
import warnings

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from mem.data.codecs import jpeg_header, turbojpeg

MAX_PIXELS = 200_000_000
"""Maximum number of pixels. Larger images are rejected, because a file of a few kB can declare a size that exhausts
memory."""
FORMATS = ("PNG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "JPEG2000", "AVIF", "JPEG")
"""Formats that Pillow may decode, by Pillow's names. Others are excluded; EPS, for example, would start a program."""
_HARMLESS_WARNING = re.compile(r"\b\d{1,2} extraneous bytes before marker|Adobe color transform|JFIF revision")
"""Pattern for libjpeg-turbo warnings that a complete image can cause. For example, some cameras pad their files.

The pattern excludes 100 or more extraneous bytes, which mean that the decoder lost its position. libjpeg-turbo reports
only its first warning. If that warning is harmless, Pillow decodes the image and checks for truncation.
"""
_TO_UPRIGHT = {
    1: lambda image: image,
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.transpose(1, 0, 2),
    6: lambda image: image[::-1].transpose(1, 0, 2),
    7: lambda image: image[::-1, ::-1].transpose(1, 0, 2),
    8: lambda image: image[:, ::-1].transpose(1, 0, 2),
}
"""Function that turns an image array upright, by Exif orientation."""

Image.MAX_IMAGE_PIXELS = None  # type: ignore[assignment]  # `MAX_PIXELS` applies to all decoders here


class Unreadable(Exception):
    """The content is not a complete image. The message gives the reason, as a predicate that follows the file name."""


def decode(content: bytes) -> UInt8[np.ndarray, "height width 3"]:
    """Decode the content of an image file to upright RGB pixels.

    Raises:
        Unreadable: The content is not a complete image, or the image has more than `MAX_PIXELS` pixels.
    """
    if not content:
        raise Unreadable("is empty (0 bytes)")
    return _decode_jpeg(content) if jpeg_header.is_jpeg(content) else _decode_with_pillow(content)


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
    _check_size(header.width, header.height)
    if header.components not in (1, 3, 4):
        raise Unreadable(f"is a JPEG file with {header.components} components; 1, 3 or 4 are supported")
    try:
        image = turbojpeg.decode(content, header.height, header.width, header.components)
    except turbojpeg.Damaged as damage:
        if damage.fatal or not _HARMLESS_WARNING.search(str(damage)):
            raise Unreadable(f"is damaged or truncated: {damage}") from None
        return _decode_with_pillow(content)
    if header.components == 4:
        image = _cmyk_to_rgb(image)
    return np.ascontiguousarray(_TO_UPRIGHT[header.orientation](image))


def _cmyk_to_rgb(inks: UInt8[np.ndarray, "height width 4"]) -> UInt8[np.ndarray, "height width 3"]:
    """Convert inverted CMYK to RGB. Inverted values give the fraction of the paper that the ink leaves white."""
    product = inks[:, :, :3].astype(np.uint16) * inks[:, :, 3:]
    return ((product + 127) // 255).astype(np.uint8)


def _decode_with_pillow(content: bytes) -> np.ndarray:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings concern metadata; damaged pixels raise an exception
            with Image.open(io.BytesIO(content), formats=FORMATS) as opened:
                _check_size(*opened.size)
                opened.load()
                return _to_rgb(ImageOps.exif_transpose(opened), opened.format)
    except (Unreadable, MemoryError):
        raise
    except Image.UnidentifiedImageError:
        start = content[:8]
        raise Unreadable(f"is not in a supported image format; it starts with {start.hex()} ({start!r})") from None
    except Exception as error:  # decoders can raise any exception on malformed data
        raise Unreadable(f"is damaged or truncated: {error or type(error).__name__}") from None


def _to_rgb(image: Image.Image, kind: str | None) -> np.ndarray:
    if image.mode.startswith("I;16") or (image.mode == "I" and kind in ("PNG", "PPM")):
        gray = (np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8)
        return np.repeat(gray[:, :, None], 3, axis=2)
    if image.mode in ("I", "F"):
        raise Unreadable("has 32-bit values without a defined range; convert them to 8 or 16 bits")
    if image.has_transparency_data:
        foreground = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", foreground.size, "white"), foreground)
    return np.array(image.convert("RGB"))


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise Unreadable(f"declares {width} x {height} pixels; the limit is {MAX_PIXELS:,}")
