"""Rendering of characters with FreeType, through Pillow."""

from __future__ import annotations

import threading
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt8

from mem.data.codecs.limits import Unreadable

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

_OPEN_FONTS = 32
"""Number of fonts that stay open. The images of a split are sorted by font, so that each font is opened once."""
_lock = threading.Lock()
"""FreeType's faces must not be used by several threads at a time."""


@lru_cache(_OPEN_FONTS)
def open_font(path: str, em: int) -> FreeTypeFont:
    """Open a font at a size in pixels.

    Raises:
        OSError: FreeType cannot open the font.
    """
    from PIL import ImageFont

    return ImageFont.truetype(path, em, layout_engine=ImageFont.Layout.BASIC)


def render(path: str, code: int, size: int, em: int) -> UInt8[np.ndarray, "{size} {size}"]:
    """Draw a character in white on black.

    The baseline has the same height in all images, and the advance width is centred. Therefore, the position and size
    of a character are kept: `o`, `O` and `0` remain different, and so do `,` and `'`.

    Args:
        path: Font file.
        code: Unicode code point of the character.
        size: Width and height of the image in pixels.
        em: Size of the font in pixels.

    Raises:
        Unreadable: FreeType cannot draw the character, or nothing of it is inside the image.
    """
    from PIL import Image, ImageDraw

    image = Image.new("L", (size, size))
    try:
        with _lock:
            font = open_font(path, em)
            left = round((size - font.getlength(chr(code))) / 2)
            ImageDraw.Draw(image).text((left, baseline(size, em)), chr(code), fill=255, font=font, anchor="ls")
    except OSError as error:
        raise Unreadable(f"cannot be drawn by FreeType: {error}") from None
    pixels = np.asarray(image)
    if not pixels.any():
        raise Unreadable("draws nothing inside the image")
    return pixels


def baseline(size: int, em: int) -> int:
    """Return the height of the baseline below the upper edge, in pixels.

    Capital letters reach about 3/4 em above the baseline, and descenders 1/4 em below it. Their centre is that of the
    image.
    """
    return round(size / 2 + em / 4)
