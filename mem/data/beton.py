"""FFCV's file format (.beton): the only place that writes or reads it.

The format, its codecs and its compiled decode and resize are FFCV's (libffcv/ffcv 1.0.2: writer.py, reader.py,
types.py, fields/rgb_image.py, libffcv.cpp). Its `DatasetWriter` and `Loader` are not used: the writer waits for ever
when a worker raises and cannot say why; the loader draws augmentation from unseeded generators, cannot start in the
middle of an epoch, and compiles for ten seconds in every process. docs/decisions.md has the comparison.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8

from mem import files
from mem.data.libffcv import (
    ALLOC_TABLE_TYPE,
    CURRENT_VERSION,
    FieldDescType,
    HeaderType,
    IntField,
    Reader,
    RGBImageField,
    ctypes_imdecode,
    ctypes_resize,
    get_metadata_type,
)
from mem.errors import UserError

PAGE_BYTES = 8 << 20
"""No image crosses a page's border, so that FFCV's own page cache can read the file."""
_FIELDS = {"image": (2, RGBImageField()), "label": (1, IntField())}
"""Name, FFCV's type id, handler."""
_METADATA = get_metadata_type([handler for _, handler in _FIELDS.values()])
_JPEG = 0
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
        UserError: An image is larger than a page.
    """
    field = RGBImageField(write_mode={"raw": "raw", "jpeg": "jpg"}[storage], jpeg_quality=jpeg_quality)
    metadata = np.zeros(len(labels), dtype=_METADATA)
    metadata["f1"] = labels
    allocations = np.zeros(len(labels), dtype=ALLOC_TABLE_TYPE)

    def encode(i: int) -> np.ndarray:
        content: list[np.ndarray] = []

        def allocate(size: int) -> tuple[int, np.ndarray]:
            content.append(np.empty(size, dtype=np.uint8))
            return 0, content[0]

        field.encode(metadata["f0"][i : i + 1], read(i), allocate)
        return content[0]

    header_bytes = HeaderType.itemsize + len(_FIELDS) * FieldDescType.itemsize + metadata.nbytes
    position = -(-header_bytes // PAGE_BYTES) * PAGE_BYTES
    with files.atomic(path, "wb") as file, ThreadPoolExecutor(workers) as pool:
        file.seek(position)
        for i, content in enumerate(_in_order(pool, encode, range(len(labels)), workers * _IN_FLIGHT)):
            size = len(content)
            if size > PAGE_BYTES:
                raise UserError(f"Image {i} takes {size} bytes, more than the {PAGE_BYTES} that a page holds")
            if position % PAGE_BYTES + size > PAGE_BYTES:
                position += -position % PAGE_BYTES
                file.seek(position)
            metadata["f0"]["data_ptr"][i] = position
            allocations[i] = (i, position, size)
            file.write(content.data)
            position += size
            done(1)
        file.seek(position)
        file.write(allocations.tobytes())
        file.seek(0)
        file.write(_header(len(labels), position))
        file.write(metadata.tobytes())


def _header(images: int, allocations_at: int) -> bytes:
    header = np.zeros((), dtype=HeaderType)
    header["version"] = CURRENT_VERSION
    header["num_samples"] = images
    header["num_fields"] = len(_FIELDS)
    header["page_size"] = PAGE_BYTES
    header["alloc_table_ptr"] = allocations_at
    descriptors = np.zeros(len(_FIELDS), dtype=FieldDescType)
    for descriptor, (name, (type_id, _)) in zip(descriptors, _FIELDS.items(), strict=True):
        descriptor["type_id"] = type_id
        descriptor["name"][: len(name)] = np.frombuffer(name.encode(), np.uint8)
    return header.tobytes() + descriptors.tobytes()


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
        if reader.field_names != list(_FIELDS):
            raise UserError(f"{path}: holds the fields {reader.field_names}, expected {list(_FIELDS)}")
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
        self._is_jpeg = image["mode"] == _JPEG
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
        rows, columns = int(self.heights[index]), int(self.widths[index])
        if self._is_jpeg[index]:
            scratch = self._buffer()
            size = int(self._sizes[index])
            status = ctypes_imdecode(source, size, rows, columns, scratch, rows, columns, 0, 0, 1, 1, False, False)
            if status != 0:
                raise UserError(f"{self.path}: image {index} does not decode: the file is damaged, convert again")
            source = scratch
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

    def _buffer(self) -> int:
        """Address of this thread's room for one decoded image."""
        if not hasattr(self._scratch, "array"):
            self._scratch.array = np.empty(self._largest, dtype=np.uint8)
        return int(self._scratch.array.ctypes.data)
