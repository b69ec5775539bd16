"""From the content of any image file to pixels, or to the reason why it is no whole picture.

What odd files become: turned upright by their Exif orientation; grey, palette and print colours (CMYK, YCCK; inverted,
as Adobe's programs write them) to red, green and blue; transparent parts laid on white; 16 bit to 8 by the high byte,
so that the whole range stays; the first frame of an animation and the first page of a TIFF. Colour profiles are not
applied. A file that ends early is never taken for a picture.
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
"""Larger pictures are refused: a few kB can announce any size, and fill the memory."""
FORMATS = ("PNG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "JPEG2000", "AVIF", "JPEG")
"""Pillow's names of what is read beside JPEG; others (EPS starts a program) are not tried."""
_HARMLESS = re.compile(r"\b\d{1,2} extraneous bytes before marker|Adobe color transform|JFIF revision")
"""Complaints of libjpeg-turbo that a whole picture may earn: some cameras pad. Many surplus bytes mean that the decoder
lost its way. As it keeps its first complaint only, Pillow is then asked whether the file ends early."""
_TURNS = {
    1: lambda image: image,
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.transpose(1, 0, 2),
    6: lambda image: image[::-1].transpose(1, 0, 2),
    7: lambda image: image[::-1, ::-1].transpose(1, 0, 2),
    8: lambda image: image[:, ::-1].transpose(1, 0, 2),
}
"""What turns a picture of each Exif orientation upright."""

Image.MAX_IMAGE_PIXELS = None  # type: ignore[assignment]  # `MAX_PIXELS` is checked here, for all decoders alike


class Unreadable(Exception):
    """The content is no whole picture; the message is the reason, as the end of a sentence about the file."""


def decode(content: bytes) -> UInt8[np.ndarray, "height width 3"]:
    """The picture in a file's content, upright, in red, green and blue.

    Raises:
        Unreadable: It is no whole picture, or larger than `MAX_PIXELS`.
    """
    if not content:
        raise Unreadable("is empty (0 bytes)")
    return _decode_jpeg(content) if jpeg_header.is_jpeg(content) else _by_pillow(content)


def shrink(
    image: UInt8[np.ndarray, "height width 3"], short_side: int | None, resample: str
) -> UInt8[np.ndarray, "rows columns 3"]:
    """The picture with its shorter side at `short_side` pixels; as it is where that is no smaller.

    Args:
        image: The picture.
        short_side: Pixels, or None to keep every size.
        resample: `area` (OpenCV's INTER_AREA: the mean of what a pixel covers) or `lanczos` (Pillow's LANCZOS,
            sharper and slower).
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
    _refuse_bombs(header.width, header.height)
    if header.components not in (1, 3, 4):
        raise Unreadable(f"is a JPEG file of {header.components} components")
    try:
        image = turbojpeg.decode(content, header.height, header.width, header.components)
    except turbojpeg.Damaged as damage:
        if damage.fatal or not _HARMLESS.search(str(damage)):
            raise Unreadable(f"is damaged or ends early: {damage}") from None
        return _by_pillow(content)
    if header.components == 4:
        image = _from_print(image)
    return np.ascontiguousarray(_TURNS[header.orientation](image))


def _from_print(inks: UInt8[np.ndarray, "height width 4"]) -> UInt8[np.ndarray, "height width 3"]:
    """Red, green and blue of inverted cyan, magenta, yellow and black: paper that is not covered by either."""
    product = inks[:, :, :3].astype(np.uint16) * inks[:, :, 3:]
    return ((product + 127) // 255).astype(np.uint8)


def _by_pillow(content: bytes) -> np.ndarray:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata; what is wrong with pixels raises
            with Image.open(io.BytesIO(content), formats=FORMATS) as opened:
                _refuse_bombs(*opened.size)
                opened.load()
                return _to_rgb(ImageOps.exif_transpose(opened), opened.format)
    except (Unreadable, MemoryError):
        raise
    except Image.UnidentifiedImageError:
        start = content[:8]
        raise Unreadable(f"is no image file that is known here; it starts with {start.hex()} ({start!r})") from None
    except Exception as error:  # decoders of hostile data raise anything
        raise Unreadable(f"is damaged or ends early: {error or type(error).__name__}") from None


def _to_rgb(image: Image.Image, kind: str | None) -> np.ndarray:
    if image.mode.startswith("I;16") or (image.mode == "I" and kind in ("PNG", "PPM")):
        grey = (np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode in ("I", "F"):
        raise Unreadable("holds 32-bit numbers, whose range no picture has: scale it to 8 or 16 bit")
    if image.has_transparency_data:
        above = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", above.size, "white"), above)
    return np.array(image.convert("RGB"))


def _refuse_bombs(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise Unreadable(f"announces {width} x {height} pixels; at most {MAX_PIXELS:,} are read")
