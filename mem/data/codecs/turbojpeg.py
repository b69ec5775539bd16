"""JPEG decoding with libjpeg-turbo, which reports both truncated files and damaged data.

OpenCV is equally fast, but does not report truncated files and fills the rest of the image with grey. Pillow reports
truncated files, but accepts damaged data and is slower. This module uses the library that FFCV is linked to (TurboJPEG
API 2).
"""

from __future__ import annotations

import ctypes
import importlib.util
from functools import cache
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

_RGB, _CMYK = 0, 11
_WARNING = 0
_FAST_DCT, _LIMIT_SCANS = 2048, 32768
"""Flags. The second one rejects progressive files with more than 500 scans, whose decoding would take hours."""


class Damaged(Exception):
    """The first warning or error that libjpeg-turbo reports for an image.

    Attributes:
        fatal: Whether the image could not be decoded at all.
    """

    def __init__(self, message: str, fatal: bool) -> None:
        super().__init__(message)
        self.fatal = fatal


def decode(
    content: bytes, height: int, width: int, components: int, *, fast: bool = False
) -> UInt8[np.ndarray, "height width channels"]:
    """Decode to RGB, or to the four stored components of a CMYK or YCCK image.

    Args:
        content: Content of the file.
        height: Height according to the header.
        width: Width according to the header.
        components: 1, 3 or 4, according to the header.
        fast: Whether to use the faster, less accurate inverse DCT, exactly as FFCV decodes stored images.

    Raises:
        Damaged: The library reported a warning or an error, even if it continued decoding.
    """
    channels, layout = (4, _CMYK) if components == 4 else (3, _RGB)
    out = np.empty((height, width, channels), dtype=np.uint8)
    library = _library()
    # A decoder keeps the tables of an image for the next one, so a file without tables would be decoded with those of
    # the previous file. A new decoder costs a few microseconds.
    decoder = library.tjInitDecompress()
    try:
        status = library.tjDecompress2(
            decoder,
            content,
            len(content),
            out.ctypes.data,
            width,
            width * channels,
            height,
            layout,
            _FAST_DCT if fast else _LIMIT_SCANS,
        )
        if status != 0:
            message = library.tjGetErrorStr2(decoder).decode(errors="replace")
            raise Damaged(message, library.tjGetErrorCode(decoder) != _WARNING)
    finally:
        library.tjDestroy(decoder)
    return out


@cache
def _library() -> ctypes.CDLL:
    # Locate the library without importing ffcv, which imports numba and takes a second.
    ffcv = importlib.util.find_spec("ffcv")
    assert ffcv is not None and ffcv.origin is not None
    extension = next(Path(ffcv.origin).parent.glob("_libffcv*"))
    library = ctypes.CDLL(str(extension))
    library.tjInitDecompress.restype = ctypes.c_void_p
    library.tjDecompress2.argtypes = [
        ctypes.c_void_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_void_p, *[ctypes.c_int] * 5,
    ]  # fmt: skip
    library.tjDestroy.argtypes = [ctypes.c_void_p]
    library.tjGetErrorStr2.argtypes = [ctypes.c_void_p]
    library.tjGetErrorStr2.restype = ctypes.c_char_p
    library.tjGetErrorCode.argtypes = [ctypes.c_void_p]
    return library
