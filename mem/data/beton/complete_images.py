"""Functions that decode and resize complete images: those of FFCV or, where it is not installed, of simplejpeg.

simplejpeg contains libjpeg-turbo, and OpenCV's Python package contains the function for resizing, so the pixels are
the same (tests/data/test_without_ffcv.py). Neither needs a compiler. See docs/decisions/0079-ffcv-is-optional.md.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import cv2
import numpy as np
import simplejpeg
from jaxtyping import UInt8

from mem.data.codecs import libffcv

_CMYK = ("CMYK", "YCCK")
_C_IMDECODE = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint32, ctypes.c_uint32, ctypes.c_void_p,
    *[ctypes.c_uint32] * 6, ctypes.c_bool, ctypes.c_bool,
)  # fmt: skip
_WRITABLE = 0x200
_memory_view = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int)(
    ("PyMemoryView_FromMemory", ctypes.pythonapi)
)
_C_RESIZE = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 11)


class Functions(NamedTuple):
    """Functions for complete images, with the parameters of FFCV's (libffcv.cpp) and addresses for arrays."""

    imdecode: Callable[..., int]
    """Decode a JPEG image with the fast inverse DCT. Return 0, or another number for damaged images."""
    resize: Callable[..., None]
    """Resize a part of RGB pixels with OpenCV's INTER_AREA."""
    pointers: tuple[ctypes.c_void_p, ctypes.c_void_p]
    """The same functions for compiled code. They can be called from any thread."""
    name: str
    """Name of the implementation, for messages."""


@cache
def functions() -> Functions:
    """Return FFCV's functions if FFCV is installed, and otherwise those of simplejpeg and OpenCV."""
    library = libffcv.library()
    if library is None:
        return without_ffcv()
    return _with_pointers(library.imdecode, library.resize, library.imdecode, library.resize, "FFCV")


@cache
def without_ffcv() -> Functions:
    """Return functions with the results of FFCV's that need only Python packages."""
    return _with_pointers(_imdecode, _resize, _C_IMDECODE(_imdecode), _C_RESIZE(_resize), "simplejpeg")


def _with_pointers(
    imdecode: Callable[..., int], resize: Callable[..., None], c_imdecode: object, c_resize: object, name: str
) -> Functions:
    pointers = (ctypes.cast(c_imdecode, ctypes.c_void_p), ctypes.cast(c_resize, ctypes.c_void_p))  # type: ignore[arg-type]
    return Functions(imdecode, resize, pointers, name)


def _imdecode(source: int, jpeg_bytes: int, rows: int, columns: int, out: int, *unused: object) -> int:
    if not jpeg_bytes:
        return -1
    content = _bytes(source, jpeg_bytes)
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
        if (height, width) != (rows, columns) or colours in _CMYK:
            return -1
        simplejpeg.decode_jpeg(content, "RGB", fastdct=True, buffer=_bytes(out, rows * columns * 3))
    except Exception:  # without a result, compiled code would take the image for a decoded one
        return -1
    return 0


def _resize(
    unused: int, source: int, rows: int, columns: int, top: int, bottom: int, left: int, right: int,
    out: int, out_rows: int, out_columns: int,
) -> None:  # fmt: skip
    image = _bytes(source, rows * columns * 3).reshape(rows, columns, 3)
    result = _bytes(out, out_rows * out_columns * 3).reshape(out_rows, out_columns, 3)
    cv2.resize(image[top:bottom, left:right], (out_columns, out_rows), dst=result, interpolation=cv2.INTER_AREA)


def _bytes(address: int, size: int) -> UInt8[np.ndarray, " bytes"]:
    """Return an array of the memory at an address, without copying it."""
    return np.frombuffer(_memory_view(address, size, _WRITABLE), np.uint8)
