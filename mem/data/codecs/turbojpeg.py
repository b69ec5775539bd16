"""libjpeg-turbo, which tells of every fault in a JPEG file that it decodes.

OpenCV decodes as fast and says nothing when a file ends early: the rest of the picture is grey. Pillow says so, takes
damaged data without a word, and is slower. The library is the one that FFCV is linked to (TurboJPEG API 2).
"""

from __future__ import annotations

import ctypes
import importlib.util
import threading
from functools import cache
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

_RGB, _CMYK = 0, 11
_WARNING = 0


class Damaged(Exception):
    """What libjpeg-turbo says of a picture: its first complaint.

    Attributes:
        fatal: Whether there is no picture at all.
    """

    def __init__(self, said: str, fatal: bool) -> None:
        super().__init__(said)
        self.fatal = fatal


def decode(content: bytes, height: int, width: int, components: int) -> UInt8[np.ndarray, "height width channels"]:
    """Decode to red, green and blue, or to the four components of a print picture as they are stored.

    Args:
        content: The file.
        height: As in its header.
        width: As in its header.
        components: 1, 3 or 4, as in its header.

    Raises:
        Damaged: The library complained, though it may have gone on.
    """
    channels, layout = (4, _CMYK) if components == 4 else (3, _RGB)
    out = np.empty((height, width, channels), dtype=np.uint8)
    library, handle = _library(), _handle()
    status = library.tjDecompress2(
        handle, content, len(content), out.ctypes.data, width, width * channels, height, layout, 0
    )
    if status != 0:
        said = library.tjGetErrorStr2(handle).decode(errors="replace")
        raise Damaged(said, library.tjGetErrorCode(handle) != _WARNING)
    return out


@cache
def _library() -> ctypes.CDLL:
    # Found without importing ffcv, which brings numba and takes a second.
    ffcv = importlib.util.find_spec("ffcv")
    assert ffcv is not None and ffcv.origin is not None
    extension = next(Path(ffcv.origin).parent.glob("_libffcv*"))
    library = ctypes.CDLL(str(extension))
    library.tjInitDecompress.restype = ctypes.c_void_p
    library.tjDecompress2.argtypes = [
        ctypes.c_void_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_void_p, *[ctypes.c_int] * 5,
    ]  # fmt: skip
    library.tjGetErrorStr2.argtypes = [ctypes.c_void_p]
    library.tjGetErrorStr2.restype = ctypes.c_char_p
    library.tjGetErrorCode.argtypes = [ctypes.c_void_p]
    return library


_threads = threading.local()


def _handle() -> int:
    """This thread's decoder."""
    if not hasattr(_threads, "handle"):
        _threads.handle = _library().tjInitDecompress()
    return _threads.handle
