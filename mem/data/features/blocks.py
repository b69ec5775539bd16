"""Sampler and readers for features that are larger than memory.

A disk is slow if it has to seek for every image. The head's settings select one of two read patterns:

- Many threads read rows in any order, so that the disk always has requests in its queue. This is fast enough for
  tokens, which occupy about half a megabyte per image.
- Threads read blocks of neighbouring images. `BlockSampler` shuffles the blocks, and then the images within each window
  of blocks. This is fast for rows of any size.
"""

from __future__ import annotations

import math
import os
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache

import numpy as np
from jaxtyping import Int64

from mem import rng
from mem.errors import UserError

THREADS = 16
"""Number of concurrent reads."""
_LARGE_ROW_BYTES = 1 << 16
"""Minimum size, in bytes, of rows that are copied one by one. Copying such a row takes longer than a Python call."""


class BlockSampler:
    """Samples every image once per epoch. Shuffles the blocks, then the images within each window of blocks.

    Samples can be accessed at any index: sample n is always the same image. Batches may span windows and epochs.

    Args:
        images: Number of images.
        seed: Seed for shuffling.
        block: Number of neighbouring images per block.
        window: Number of blocks per window.
    """

    def __init__(self, images: int, seed: int, block: int, window: int) -> None:
        self.images, self.block, self.window = images, block, window
        self._seed = seed
        self._epoch = lru_cache(maxsize=3)(self._shuffle)

    def _shuffle(self, epoch: int) -> Int64[np.ndarray, " images"]:
        blocks = rng.permutation(self._seed, "block order", epoch, -(-self.images // self.block))
        indices = (blocks[:, None] * self.block + np.arange(self.block)).ravel()
        indices = indices[indices < self.images]
        size = self.block * self.window
        windows = -(-self.images // size)
        for w in range(windows):
            part = indices[w * size : (w + 1) * size]
            part[:] = part[rng.permutation(self._seed, "window order", epoch * windows + w, len(part))]
        return indices

    def indices(self, start: int, count: int) -> Int64[np.ndarray, " {count}"]:
        """Return the image indices of the samples `start` to `start + count - 1`."""
        parts: list[np.ndarray] = []
        while count > 0:
            epoch, position = divmod(start, self.images)
            parts.append(self._epoch(epoch)[position : position + count])
            start, count = start + len(parts[-1]), count - len(parts[-1])
        return np.concatenate(parts)

    def views(self, start: int, count: int, views: int, seed: int) -> Int64[np.ndarray, " {count}"]:
        """Return the view of each sample.

        Within an epoch, all images of a block use the same view, so that one read per block suffices.
        """
        if views == 1:
            return np.zeros(count, dtype=np.int64)
        blocks = -(-self.images // self.block)
        epochs = np.arange(start, start + count) // self.images
        numbers = epochs * blocks + self.indices(start, count) // self.block
        low, high = int(numbers.min()), int(numbers.max())
        uniforms = rng.uniforms(seed, "view of block", low, high - low + 1, 1)[numbers - low, 0]
        return np.floor(uniforms * views).astype(np.int64)


class RowReader:
    """Reads rows from a file that contains an array of shape (views, images, ...)."""

    def __init__(self, array: np.memmap) -> None:
        self.shape, self.dtype = array.shape, array.dtype
        self.row_bytes = math.prod(array.shape[2:]) * array.dtype.itemsize
        self._path = array.filename
        self._offset = array.offset
        self._file = os.open(str(array.filename), os.O_RDONLY)
        if hasattr(os, "posix_fadvise"):
            # Disable read-ahead, because requests cover exactly the bytes that are needed.
            os.posix_fadvise(self._file, 0, 0, os.POSIX_FADV_RANDOM)

    def read(self, view: int, first: int, out: np.ndarray) -> None:
        """Fill `out` with consecutive rows, starting with the row of image `first`.

        Args:
            view: Index of the view.
            first: Index of the first image.
            out: Contiguous array of shape (rows, ...), of any float type.

        Raises:
            UserError: The file is truncated.
        """
        if out.dtype != self.dtype:
            stored = np.empty(out.shape, dtype=self.dtype)
            self.read(view, first, stored)
            out[:] = stored
            return
        remaining = out.data.cast("B")
        position = self._offset + (view * self.shape[1] + first) * self.row_bytes
        while remaining:
            count = os.preadv(self._file, [remaining], position)
            if not count:
                expected = self._offset + math.prod(self.shape[:2]) * self.row_bytes
                raise UserError(
                    f"{self._path}: the file is truncated: it has {os.fstat(self._file).st_size:,} bytes, expected "
                    f"{expected:,}. Delete the folder and run `mem features` again."
                )
            remaining, position = remaining[count:], position + count

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


class BlockCache:
    """Cache of prefetched blocks of rows. If it is full, the least recently requested block is evicted.

    Args:
        arrays: Readers of arrays with the same views and images.
        block: Number of images per block.
        slots: Number of blocks that the cache can store.
        pool: Threads that read the blocks.
    """

    def __init__(self, arrays: Sequence[RowReader], block: int, slots: int, pool: ThreadPoolExecutor) -> None:
        self._arrays, self._block, self._pool = arrays, block, pool
        self._memory = [np.empty((slots, block, *rows.shape[2:]), dtype=rows.dtype) for rows in arrays]
        self._slots: OrderedDict[int, tuple[int, list[Future[None]]]] = OrderedDict()
        self._capacity = slots
        self._images = arrays[0].shape[1]
        self._blocks = -(-self._images // block)

    def request(self, views: Int64[np.ndarray, " samples"], indices: Int64[np.ndarray, " samples"]) -> None:
        """Start reading the blocks that contain the samples, except for blocks that are already in the cache."""
        keys = views * self._blocks + indices // self._block
        _, first = np.unique(keys, return_index=True)
        for key in keys[np.sort(first)].tolist():
            if key in self._slots:
                self._slots.move_to_end(key)
                continue
            slot = len(self._slots)
            if slot == self._capacity:
                _, (slot, pending) = self._slots.popitem(last=False)
                for task in pending:  # memory must not be reused while a thread writes to it
                    task.result()
            view, number = divmod(key, self._blocks)
            images = slice(number * self._block, (number + 1) * self._block)
            count = len(range(self._images)[images])
            tasks = [
                self._pool.submit(rows.read, view, images.start, memory[slot, :count])
                for rows, memory in zip(self._arrays, self._memory, strict=True)
            ]
            self._slots[key] = slot, tasks

    def fill(
        self,
        views: Int64[np.ndarray, " samples"],
        indices: Int64[np.ndarray, " samples"],
        outs: Sequence[np.ndarray],
    ) -> None:
        """Copy the rows of samples whose blocks were requested.

        Args:
            views: View of each sample.
            indices: Image index of each sample.
            outs: One destination array of shape (samples, ...) per reader.
        """
        numbers, within = np.divmod(indices, self._block)
        keys, inverse = np.unique(views * self._blocks + numbers, return_inverse=True)
        slot_of_key = np.empty(len(keys), dtype=np.int64)
        for k, key in enumerate(keys.tolist()):
            slot_of_key[k], tasks = self._slots[key]
            for task in tasks:
                task.result()
        slots = slot_of_key[inverse]
        for rows, memory, out in zip(self._arrays, self._memory, outs, strict=True):
            if rows.row_bytes < _LARGE_ROW_BYTES:
                out[:] = memory[slots, within]
            else:  # fancy indexing would copy twice
                for i, (slot, row) in enumerate(zip(slots.tolist(), within.tolist(), strict=True)):
                    out[i] = memory[slot, row]
