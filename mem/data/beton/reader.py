"""FFCV's file format (.beton): reading it, and writing it in one go (conversions use `mem.data.beton.writer`).

The format, its codecs and its compiled decode and resize are FFCV's (libffcv/ffcv 1.0.2: writer.py, reader.py,
types.py, fields/rgb_image.py, libffcv.cpp). Its `DatasetWriter` and `Loader` are not used: the writer waits for ever
when a worker raises and cannot say why; the loader draws augmentation from unseeded generators, cannot start in the
middle of an epoch, and compiles for ten seconds in every process. docs/decisions/0014-data-loading-on-ffcv.md has the reasons.
"""

from __future__ import annotations

import mmap
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8

from mem.data.beton.encoding import JPEG, Encoding, encode
from mem.data.beton.libffcv import Reader, ctypes_imdecode, ctypes_resize
from mem.data.beton.writer import FIELDS, BetonWriter, publish_all
from mem.errors import UserError

_IN_FLIGHT = 64
"""Images per worker that may be encoded but not yet written."""


def write_beton(
    path: Path,
    labels: Int64[np.ndarray, " images"],
    read: Callable[[int], np.ndarray],
    *,
    storage: str,
    jpeg_quality: int,
    workers: int,
    done: Callable[[int], None] = lambda count: None,
) -> None:
    """Write images and labels as one .beton file, in order; the same images give the same bytes.

    Args:
        path: The file; it takes this name only once it is whole.
        labels: Class of each image.
        read: Gives the i-th image, (height, width, 3), uint8. Called from worker threads.
        storage: `raw` or `jpeg`.
        jpeg_quality: 1 to 100.
        workers: Threads that read and encode.
        done: Told of each image written.

    Raises:
        Unreadable: An image is larger than the format allows.
    """
    encoding = Encoding(storage, jpeg_quality, None, "area")
    partial = BetonWriter(path, len(labels), {})
    partial.discard()
    try:
        with partial, ThreadPoolExecutor(workers) as pool:
            made = _in_order(pool, lambda i: encode(read(i), encoding), range(len(labels)), workers * _IN_FLIGHT)
            for image in made:
                partial.add(image)
                done(1)
            partial.finish(labels)
            publish_all([partial])
    finally:
        partial.discard()


def _in_order(pool: ThreadPoolExecutor, work: Callable[[int], Any], items: Iterable[int], ahead: int) -> Iterator[Any]:
    """Results in the items' order, with at most `ahead` of them waiting."""
    waiting: deque[Future[Any]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


class Beton:
    """An opened .beton file: labels in memory, images mapped from disk and shared by all processes.

    Raises:
        UserError: There is no such file, or it is no whole .beton file with images and labels.
    """

    def __init__(self, path: Path) -> None:
        try:
            reader = Reader(str(path))
            self._map = np.memmap(path, dtype=np.uint8, mode="r")
        except FileNotFoundError:
            raise UserError(f"{path}: no such file. `mem convert` writes it.") from None
        except (ValueError, AssertionError, IndexError, KeyError, TypeError) as error:
            raise UserError(f"{path}: no FFCV file, or an incomplete one: {error}") from None
        if reader.field_names != list(FIELDS):
            raise UserError(f"{path}: holds the fields {reader.field_names}, expected {list(FIELDS)}")
        table = reader.alloc_table
        if len(table) != reader.num_samples or len(reader.metadata) != reader.num_samples:
            raise UserError(
                f"{path}: announces {reader.num_samples} images and lists {len(table)}: the file is incomplete. "
                "Remove it and convert again."
            )
        self.path = path
        self.labels: Int64[np.ndarray, " images"] = reader.metadata["f1"].astype(np.int64)
        image = reader.metadata["f0"]
        self.heights: Int64[np.ndarray, " images"] = image["height"].astype(np.int64)
        self.widths: Int64[np.ndarray, " images"] = image["width"].astype(np.int64)
        self._is_jpeg = image["mode"] == JPEG
        self._positions = table["ptr"].astype(np.int64)
        self._sizes = table["size"].astype(np.int64)
        self._base = self._map.ctypes.data
        self._scratch = threading.local()
        self._largest = int((self.heights * self.widths).max(initial=0)) * 3

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
        """Decode an image and resize a part of it into `out` (OpenCV's INTER_AREA). Releases the interpreter lock.

        Raises:
            UserError: The image's JPEG data are damaged.
        """
        source = self._base + int(self._positions[index])
        size = (int(self.heights[index]), int(self.widths[index]))
        jpeg_bytes = int(self._sizes[index]) if self._is_jpeg[index] else None
        scratch = self._buffer() if jpeg_bytes else 0
        if not resize_part(source, jpeg_bytes, size, (top, left, height, width), scratch, out):
            raise UserError(f"{self.path}: image {index} does not decode: the file is damaged, convert again")

    def release(self) -> None:
        """Let go of the pages that were read, which the system counts as this process's memory; they can come again."""
        mapping = self._map.base
        if isinstance(mapping, mmap.mmap):
            mapping.madvise(mmap.MADV_DONTNEED)

    def _buffer(self) -> int:
        """Address of this thread's room for one decoded image."""
        if not hasattr(self._scratch, "array"):
            self._scratch.array = np.empty(self._largest, dtype=np.uint8)
        return int(self._scratch.array.ctypes.data)


def resize_part(
    source: int,
    jpeg_bytes: int | None,
    size: tuple[int, int],
    part: tuple[int, int, int, int],
    scratch: int,
    out: UInt8[np.ndarray, "rows columns 3"],
) -> bool:
    """Decode a stored image and resize a part of it into `out` (OpenCV's INTER_AREA), by FFCV's compiled code.

    Args:
        source: Address of the stored content.
        jpeg_bytes: Its length where it is JPEG data; None for raw pixels.
        size: Height and width of the image.
        part: Top, left, height and width of what is kept.
        scratch: Address of room for the decoded image, of JPEG data.
        out: Takes the pixels.

    Returns:
        Whether the content decodes.
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
