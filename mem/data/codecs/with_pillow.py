"""Decoder for image files that Pillow supports. Metadata are removed first, so that they cannot cause errors."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from mem.data.codecs import orientation, png, samples, tiff, webp
from mem.data.codecs.limits import MAX_PIXELS, Unreadable

FORMATS = ("PNG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "JPEG2000", "AVIF", "JPEG")
"""Formats that Pillow may decode, by Pillow's names. Others are excluded; EPS, for example, would start a program."""
_PART_BYTES = 16 << 20
"""Approximate size of the parts in which an image is converted to RGB, to need little memory beside the image."""

Image.MAX_IMAGE_PIXELS = None  # type: ignore[assignment]  # the project's limits apply to all decoders

Limits = Callable[[int, int], AbstractContextManager[None]]
"""Function that checks a width and a height, and returns a context in which the image may be decoded."""


@dataclass(frozen=True)
class _Parsed:
    """A file, and what is known about it from its header. At most one of `png` and `tiff` is set."""

    content: bytes
    png: png.Png | None = None
    tiff: tiff.Tiff | None = None


def read(content: bytes, limits: Limits) -> tuple[UInt8[np.ndarray, "height width 3"], int]:
    """Decode a file to RGB pixels as they are stored, and return its orientation.

    Raises:
        Unreadable: The content is not a complete image, or `limits` rejects its size.
        MemoryError: Memory ran out.
    """
    parsed = _parse(content, limits)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings concern metadata; damaged pixels raise an exception
            with Image.open(io.BytesIO(parsed.content), formats=FORMATS) as opened, limits(*opened.size):
                opened.load()
                return _to_rgb(opened, parsed), _orientation(opened, parsed)
    except (Unreadable, MemoryError):
        raise
    except Image.UnidentifiedImageError:
        if parsed.tiff is not None:
            raise Unreadable(f"is a TIFF file with unsupported samples ({parsed.tiff.layout})") from None
        start = content[:8]
        raise Unreadable(f"is not in a supported image format; it starts with {start.hex()} ({start!r})") from None
    except Exception as error:  # decoders can raise any exception on malformed data
        raise Unreadable(f"is damaged or truncated: {str(error) or type(error).__name__}") from None


def _parse(content: bytes, limits: Limits) -> _Parsed:
    """Remove metadata, and reject files that Pillow would read incorrectly or with too much memory."""
    if png.is_png(content):
        found = png.parse(content)
        if found.lacks_palette:
            raise Unreadable("is damaged or truncated: it has no palette")
        return _Parsed(found.content, png=found)
    if webp.is_webp(content) and (size := webp.canvas_size(content)):
        with limits(*size):
            return _Parsed(content)
    if tiff.is_tiff(content):
        directory = tiff.parse(content)
        if directory is None:
            raise Unreadable("is damaged or truncated: the TIFF directory cannot be read")
        if directory.signed:
            raise Unreadable("has signed samples; convert them to unsigned samples of 8 or 16 bits")
        if directory.tile_pixels > MAX_PIXELS:
            raise Unreadable(f"has tiles of {directory.tile_pixels:,} pixels; the limit is {MAX_PIXELS:,}")
        return _Parsed(directory.content, tiff=directory)
    return _Parsed(content)


def _orientation(image: Image.Image, parsed: _Parsed) -> int:
    if parsed.tiff is not None:
        tag = parsed.tiff.orientation
        return orientation.orientation(None, parsed.tiff.xmp) if tag is None else orientation.valid(tag)
    if parsed.png is not None:
        return orientation.orientation(parsed.png.exif, parsed.png.xmp)
    exif, xmp = image.info.get("exif"), image.info.get("xmp")
    return orientation.orientation(*(data if isinstance(data, bytes) else None for data in (exif, xmp)))


def _to_rgb(image: Image.Image, parsed: _Parsed) -> UInt8[np.ndarray, "height width 3"]:
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        return _deep_gray_to_rgb(image, parsed)
    if image.mode in ("I", "F"):
        raise Unreadable("has 32-bit values without a defined range; convert them to 8 or 16 bits")
    _fix_transparent_colour(image, parsed)
    transparent = image.has_transparency_data
    rgb = np.empty((image.height, image.width, 3), dtype=np.uint8)
    for top, part in _parts(image):
        if transparent:
            foreground = part.convert("RGBA")
            part = Image.alpha_composite(Image.new("RGBA", foreground.size, "white"), foreground)
        rgb[top : top + part.height] = np.asarray(part if part.mode == "RGB" else part.convert("RGB"))
    if parsed.png is not None and parsed.png.bits == 16:
        samples.reject_unscaled(int(rgb.max(initial=0)), parsed.png.significant_bits)
    if parsed.tiff is not None and set(parsed.tiff.bits) == {16}:
        samples.reject_declared(parsed.tiff.max_sample_value)
    return rgb


def _deep_gray_to_rgb(image: Image.Image, parsed: _Parsed) -> UInt8[np.ndarray, "height width 3"]:
    """Convert gray values of up to 16 bits to RGB."""
    values = np.asarray(image)
    bits = 16
    if parsed.tiff is not None:
        bits = samples.declared_bits(parsed.tiff.bits[0], parsed.tiff.max_sample_value)
    elif parsed.png is not None:
        bits = samples.used_bits(values, parsed.png.significant_bits)
    rgb = np.empty((*values.shape, 3), dtype=np.uint8)
    rows = max(1, _PART_BYTES // (4 * image.width))
    for top in range(0, len(values), rows):
        gray = samples.to_8_bits(values[top : top + rows], bits)
        if parsed.tiff is not None and parsed.tiff.inverted:
            gray = 255 - gray
        if "transparency" in image.info:
            gray[values[top : top + rows] == image.info["transparency"]] = 255
        rgb[top : top + rows] = gray[:, :, None]
    return rgb


def _fix_transparent_colour(image: Image.Image, parsed: _Parsed) -> None:
    """Scale the transparent colour of a PNG file as Pillow scales its pixels, if they do not have 8 bits."""
    colour, bits = image.info.get("transparency"), 8 if parsed.png is None else parsed.png.bits
    if image.mode == "L" and bits < 8 and isinstance(colour, int):
        image.info["transparency"] = colour * 255 // (2**bits - 1)
    elif image.mode == "RGB" and bits == 16 and isinstance(colour, tuple):
        image.info["transparency"] = tuple(value >> 8 for value in colour)


def _parts(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """Yield parts of full width from top to bottom, with the row at which each starts."""
    rows = max(1, _PART_BYTES // (4 * image.width))
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))
