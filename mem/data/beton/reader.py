"""Reader for FFCV's file format (.beton). The writer is in `mem.data.beton.writer`.

The format, its codecs, and the compiled decoder and resizer come from FFCV (libffcv/ffcv 1.0.2: writer.py, reader.py,
types.py, fields/rgb_image.py, libffcv.cpp). The project does not use FFCV's `DatasetWriter` and `Loader`. The writer
hangs without a message when a worker raises an exception. The loader augments images with unseeded generators, cannot
start in the middle of an epoch, and takes ten seconds to compile in every process. See
docs/decisions/0014-data-loading-on-ffcv.md.
"""

from __future__ import annotations

import mmap
import threading
from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt8

from mem.data.beton.format import JPEG
from mem.data.beton.libffcv import Reader, ctypes_imdecode, ctypes_resize
from mem.data.beton.writer import FIELDS
from mem.errors import UserError


class Beton:
    """An open .beton file. Labels are loaded into memory. Images are memory-mapped, so that processes share them.

    Raises:
        UserError: The file does not exist or is not a complete .beton file with images and labels.
    """

    def __init__(self, path: Path) -> None:
        try:
            reader = Reader(str(path))
            self._map = np.memmap(path, dtype=np.uint8, mode="r")
        except FileNotFoundError:
            raise UserError(f"{path}: no such file. Run `mem convert` to write it.") from None
        except (ValueError, AssertionError, IndexError, KeyError, TypeError) as error:
            raise UserError(
                f"{path}: not an FFCV file, or an incomplete one ({error}). Delete it and run `mem convert` again."
            ) from None
        if reader.field_names != list(FIELDS):
            raise UserError(
                f"{path}: has the fields {reader.field_names}, expected {list(FIELDS)}. Delete it and run "
                "`mem convert` again."
            )
        table = reader.alloc_table
        if len(table) != reader.num_samples or len(reader.metadata) != reader.num_samples:
            raise UserError(
                f"{path}: the file is incomplete: its header specifies {reader.num_samples} images, but its table "
                f"lists {len(table)}. Delete it and run `mem convert` again."
            )
        self.path = path
        self.labels: Int64[np.ndarray, " images"] = reader.metadata["f1"].astype(np.int64)
        image = reader.metadata["f0"]
        self.heights: Int64[np.ndarray, " images"] = image["height"].astype(np.int64)
        self.widths: Int64[np.ndarray, " images"] = image["width"].astype(np.int64)
        self._is_jpeg = image["mode"] == JPEG
        self._positions = table["ptr"].astype(np.int64)
        self._sizes = table["size"].astype(np.int64)
        self._base_address = self._map.ctypes.data
        self._thread_buffers = threading.local()
        self._largest_image_bytes = int((self.heights * self.widths).max(initial=0)) * 3

    def __len__(self) -> int:
        return len(self.labels)

    def crop(
        self,
        index: int,
        top: int,
        left: int,
        height: int,
        width: int,
        out: UInt8[np.ndarray, "rows columns 3"],
    ) -> None:
        """Decode an image and resize a crop into `out` (OpenCV's INTER_AREA). Releases the global interpreter lock.

        Raises:
            UserError: The image's JPEG data are damaged.
        """
        address = self._base_address + int(self._positions[index])
        size = (int(self.heights[index]), int(self.widths[index]))
        jpeg_bytes = int(self._sizes[index]) if self._is_jpeg[index] else None
        buffer = self._buffer_address() if jpeg_bytes else 0
        if not resize_part(address, jpeg_bytes, size, (top, left, height, width), buffer, out):
            raise UserError(
                f"{self.path}: image {index} cannot be decoded: the file is damaged. Delete it and run `mem convert` "
                "again."
            )

    def release(self) -> None:
        """Release the mapped pages, which count towards the memory use of this process. Later reads map them again."""
        mapping = self._map.base
        if isinstance(mapping, mmap.mmap):
            mapping.madvise(mmap.MADV_DONTNEED)

    def _buffer_address(self) -> int:
        """Return the address of this thread's buffer for one decoded image."""
        if not hasattr(self._thread_buffers, "array"):
            self._thread_buffers.array = np.empty(self._largest_image_bytes, dtype=np.uint8)
        return int(self._thread_buffers.array.ctypes.data)


def resize_part(
    source: int,
    jpeg_bytes: int | None,
    size: tuple[int, int],
    part: tuple[int, int, int, int],
    scratch: int,
    out: UInt8[np.ndarray, "rows columns 3"],
) -> bool:
    """Decode a stored image and resize a crop into `out` (OpenCV's INTER_AREA), using FFCV's compiled code.

    Args:
        source: Address of the stored content.
        jpeg_bytes: Length of the content in bytes if it is JPEG data; None for raw pixels.
        size: Height and width of the image.
        part: Top, left, height and width of the crop.
        scratch: Address of a buffer for the decoded image. Used for JPEG data only.
        out: Destination of the pixels.

    Returns:
        Whether the content could be decoded.
    """
    rows, columns = size
    if jpeg_bytes is not None:
        status = ctypes_imdecode(source, jpeg_bytes, rows, columns, scratch, rows, columns, 0, 0, 1, 1, False, False)
        if status != 0:
            return False
        source = scratch
    top, left, height, width = part
    ctypes_resize(
        0,
        source,
        rows,
        columns,
        top,
        top + height,
        left,
        left + width,
        out.ctypes.data,
        out.shape[0],
        out.shape[1],
    )
    return True
