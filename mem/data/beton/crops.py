"""Crops of stored images: decoded, cropped, resized and flipped, several images per call.

The library in `native/`, which is compiled when this project is installed, decodes only the part of a JPEG image that a
crop needs, and releases the global interpreter lock. Without it, the functions of `complete_images` decode complete
images. The pixels are the same, bit for bit. See docs/decisions/0050-own-crop-decoder.md.
"""

from __future__ import annotations

import ctypes
import logging
import threading
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Int64, UInt8

from mem.data.beton import complete_images

logger = logging.getLogger("mem")

_loading = threading.Lock()
_COLUMNS = 9
"""Number of int64 values per crop: the fields of `struct mem_crop` in native/crops.h."""

CropTable = Int64[np.ndarray, "images 9"]
"""Crops in the memory layout of the library. Returned by `crop_table`."""


class Stored(NamedTuple):
    """Location and size of stored images, as arrays with one value per image."""

    addresses: Int64[np.ndarray, " images"]
    jpeg_bytes: Int64[np.ndarray, " images"]
    """Length of the content in bytes if it is JPEG data, or -1 for raw pixels."""
    heights: Int64[np.ndarray, " images"]
    widths: Int64[np.ndarray, " images"]


def crop_table(
    stored: Stored, crops: Int64[np.ndarray, "images 4"], mirrored: Bool[np.ndarray, " images"] | None = None
) -> CropTable:
    """Combine stored images with their crops (top, left, height and width), and with whether they are flipped.

    Raises:
        ValueError: A crop is empty or not inside its image.
    """
    sizes = np.stack([stored.heights, stored.widths], axis=1)
    corners, lengths = crops[:, :2], crops[:, 2:]
    if (corners < 0).any() or (lengths < 1).any() or (corners + lengths > sizes).any():
        raise ValueError("a crop is empty or not inside its image")
    table = np.empty((len(crops), _COLUMNS), dtype=np.int64)
    table[:, 0] = stored.addresses
    table[:, 1] = stored.jpeg_bytes
    table[:, 2:4] = sizes
    table[:, 4:8] = crops
    table[:, 8] = False if mirrored is None else mirrored
    return table


def crop_images(
    table: CropTable, scratch: UInt8[np.ndarray, " bytes"], out: UInt8[np.ndarray, "images rows columns 3"]
) -> int | None:
    """Decode and crop images, resize the crops into `out` (OpenCV's INTER_AREA), and flip them.

    Args:
        table: The crops. The addresses in it must be valid during the call.
        scratch: Memory for the largest of the images after decoding. Used for JPEG data only.
        out: Destination. It must be contiguous.

    Returns:
        The position of the first image that cannot be decoded, or None.
    """
    assert table.flags.c_contiguous and out.flags.c_contiguous and len(table) == len(out)
    library = native_library()
    failed = -1
    if library is None:
        failed = crop_complete_images(table, scratch, out)
    elif len(table):
        failed = _call(library, table, scratch, out)
    return None if failed < 0 else failed


def native_library() -> ctypes.CDLL | None:
    """Load the compiled library. Without a usable library, log a warning once and return None."""
    with _loading:
        return _load()


def crop_complete_images(
    table: CropTable,
    scratch: np.ndarray,
    out: np.ndarray,
    functions: complete_images.Functions | None = None,
) -> int:
    """Do the same as the library, one image at a time. Return the position of the first failure, or -1.

    Args:
        table: See `crop_images`.
        scratch: See `crop_images`.
        out: See `crop_images`.
        functions: Functions for complete images. Default: those of this installation.
    """
    functions = functions or complete_images.functions()
    for i, (source, jpeg_bytes, rows, columns, top, left, height, width, mirrored) in enumerate(table.tolist()):
        if jpeg_bytes >= 0:
            memory = scratch.ctypes.data
            size = rows, columns
            if functions.imdecode(source, jpeg_bytes, *size, memory, *size, 0, 0, 1, 1, False, False) != 0:
                return i
            source = memory
        part = top, top + height, left, left + width
        functions.resize(0, source, rows, columns, *part, out[i].ctypes.data, *out.shape[1:3])
        if mirrored:
            cv2.flip(out[i], 1, out[i])
    return -1


@cache
def _load() -> ctypes.CDLL | None:
    folder = Path(__file__).parent
    path = next(filter(Path.is_file, (folder / f"_crops{suffix}" for suffix in EXTENSION_SUFFIXES)), None)
    if path is None:
        return _without("it was not compiled when this project was installed")
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        return _without(f"it cannot be loaded ({error})")
    library.mem_crops.restype = ctypes.c_int64
    library.mem_crops.argtypes = [
        ctypes.c_int64, *[ctypes.c_void_p] * 3, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p,
    ]  # fmt: skip
    if not _agrees(library):
        return _without(f"its results differ from those of this installation's {complete_images.functions().name}")
    return library


def _without(reason: str) -> None:
    logger.warning(
        "The library mem/data/beton/_crops is not used: %s. %s decodes complete images instead, which takes more time; "
        "the pixels are the same. Install a C compiler and libjpeg-turbo's headers, then install mem again. See "
        "docs/how-to/install-without-compiler.md.",
        reason,
        complete_images.functions().name,
    )


def _call(library: ctypes.CDLL, table: CropTable, scratch: np.ndarray, out: np.ndarray) -> int:
    addresses = table.ctypes.data, scratch.ctypes.data, out.ctypes.data
    return library.mem_crops(len(table), *addresses, *out.shape[1:3], *complete_images.functions().pointers)


def _agrees(library: ctypes.CDLL) -> bool:
    """Compare the library with the functions for complete images on a small image, stored as JPEG and as raw pixels.

    OpenCV may round differently, for example on a processor with fused multiply-add.
    """
    y, x = np.mgrid[0:48, 0:64]
    pixels = np.stack([4 * x, 5 * y, (x * y) % 256], axis=2).astype(np.uint8)
    success, jpeg = cv2.imencode(".jpg", pixels)
    assert success
    jpeg = jpeg.reshape(-1)
    stored = Stored(
        np.array([pixels.ctypes.data, pixels.ctypes.data, jpeg.ctypes.data, jpeg.ctypes.data]),
        np.array([-1, -1, jpeg.size, jpeg.size]),
        np.full(4, 48),
        np.full(4, 64),
    )
    crops = np.array([[3, 5, 43, 51], [7, 2, 17, 19]] * 2)
    table = crop_table(stored, crops, np.array([False, True, True, False]))
    scratch, (found, expected) = np.empty(pixels.size, dtype=np.uint8), np.empty((2, 4, 24, 24, 3), dtype=np.uint8)
    if _call(library, table, scratch, found) != -1 or crop_complete_images(table, scratch, expected) != -1:
        return False
    return np.array_equal(found, expected)
