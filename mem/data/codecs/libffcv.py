"""FFCV's compiled library, if it is installed. This is the only module that loads it.

The library contains FFCV's functions for complete images and the functions of libjpeg-turbo (TurboJPEG API 2). It is
loaded without importing the package `ffcv`, because the import compiles a numba dictionary for five seconds in every
process and sets the threads of PyTorch and numba to one. Without the library, `mem.data.codecs.turbojpeg` and
`mem.data.beton.complete_images` use simplejpeg and OpenCV's Python package, which give the same pixels.
"""

from __future__ import annotations

import ctypes
import importlib.util
import logging
from functools import cache
from pathlib import Path

logger = logging.getLogger("mem")


@cache
def library() -> ctypes.CDLL | None:
    """Load the library. Return None if FFCV is not installed, or, after a warning, if the library cannot be loaded."""
    found = importlib.util.find_spec("ffcv")
    if found is None or found.origin is None:
        return None
    path = next(Path(found.origin).parent.glob("_libffcv*"), None)
    if path is None:
        return _unusable("it has no compiled library")
    try:
        loaded = ctypes.CDLL(str(path))
    except OSError as error:
        return _unusable(f"its library cannot be loaded ({error})")
    # imdecode(source, bytes, rows, columns, out, crop rows, crop columns, offsets, scale, whether to crop and to flip)
    loaded.imdecode.argtypes = [
        ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint32, ctypes.c_uint32, ctypes.c_void_p, *[ctypes.c_uint32] * 6,
        ctypes.c_bool, ctypes.c_bool,
    ]  # fmt: skip
    # resize(unused, source, rows, columns, top, bottom, left, right, out, out rows, out columns)
    loaded.resize.argtypes = [ctypes.c_int64] * 11
    loaded.resize.restype = None
    loaded.tjInitDecompress.restype = ctypes.c_void_p
    loaded.tjDecompress2.argtypes = [
        ctypes.c_void_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_void_p, *[ctypes.c_int] * 5,
    ]  # fmt: skip
    loaded.tjDestroy.argtypes = [ctypes.c_void_p]
    loaded.tjGetErrorStr2.argtypes = [ctypes.c_void_p]
    loaded.tjGetErrorStr2.restype = ctypes.c_char_p
    loaded.tjGetErrorCode.argtypes = [ctypes.c_void_p]
    return loaded


def _unusable(reason: str) -> None:
    logger.warning(
        "The installed FFCV is not used: %s. simplejpeg and OpenCV decode images instead, with the same pixels. "
        "Reinstall FFCV on this system, or uninstall it.",
        reason,
    )
