"""Features that are larger than memory, read in large pieces and ahead of their use.

A disk is slow where it must look for every image by itself. So there are two ways, which a head's settings choose:

- rows in any order, each read by one of many threads, so that the disk always has the next ones at hand. Fast enough
  for tokens, of which an image has half a megabyte.
- blocks of neighbouring images, in an order that is shuffled by block and then by image within a window of blocks
  (`BlockOrder`). Fast for rows of any size; neighbours on disk then come within the same window.
"""

from __future__ import annotations

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
"""Requests that the disk has at a time."""
_LARGE = 1 << 16
"""Bytes of a row from which on a copy costs more than Python's call of it."""


class BlockSampler:
    """Each image once in every `images` samples: blocks shuffled anew each time, then images within windows of them.

    Sample number n is the same image wherever one begins; batches may straddle windows and epochs.
    """

    def __init__(self, images: int, seed: int, block: int, window: int) -> None:
        self.images, self.block, self.window = images, block, window
        self._seed = seed
        self._epoch = lru_cache(maxsize=3)(self._shuffled)

    def _shuffled(self, epoch: int) -> Int64[np.ndarray, " images"]:
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
        """Image index of the samples `start` to `start + count - 1`."""
        parts: list[np.ndarray] = []
        while count > 0:
            epoch, place = divmod(start, self.images)
            parts.append(self._epoch(epoch)[place : place + count])
            start, count = start + len(parts[-1]), count - len(parts[-1])
        return np.concatenate(parts)

    def views(self, start: int, count: int, views: int, seed: int) -> Int64[np.ndarray, " {count}"]:
        """View of each sample: one for all images of a block in an epoch, since they are read together."""
        if views == 1:
            return np.zeros(count, dtype=np.int64)
        blocks = -(-self.images // self.block)
        epochs = np.arange(start, start + count) // self.images
        chosen = epochs * blocks + self.indices(start, count) // self.block
        low = int(chosen.min())
        numbers = rng.uniforms(seed, "view of block", low, int(chosen.max()) - low + 1, 1)[chosen - low, 0]
        return np.floor(numbers * views).astype(np.int64)


class RowReader:
    """Rows of an array of shape (views, images, ...) in a file."""

    def __init__(self, array: np.memmap) -> None:
        self.shape, self.dtype = array.shape, array.dtype
        self.bytes = int(np.prod(array.shape[2:])) * array.dtype.itemsize
        self._path = array.filename
        self._start = array.offset
        self._file = os.open(str(array.filename), os.O_RDONLY)
        if hasattr(os, "posix_fadvise"):
            # Requests are as large as they should be: the system is to read them whole, and nothing beside them.
            os.posix_fadvise(self._file, 0, 0, os.POSIX_FADV_RANDOM)

    def read(self, view: int, first: int, out: np.ndarray) -> None:
        """Fill `out`, (rows, ...) and contiguous, with the rows from `first` on.

        Raises:
            UserError: The file ends before them.
        """
        if out.dtype != self.dtype:
            kept = np.empty(out.shape, dtype=self.dtype)
            self.read(view, first, kept)
            out[:] = kept
            return
        left = out.data.cast("B")
        position = self._start + (view * self.shape[1] + first) * self.bytes
        while left:
            count = os.preadv(self._file, [left], position)
            if not count:
                raise UserError(f"{self._path}: ends in the middle of image {first}. Compute the features again.")
            left, position = left[count:], position + count

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


class BlockCache:
    """Blocks of rows of some arrays, requested ahead and kept until as many others were requested."""

    def __init__(self, arrays: Sequence[RowReader], block: int, slots: int, pool: ThreadPoolExecutor) -> None:
        self._arrays, self._block, self._pool = arrays, block, pool
        self._memory = [np.empty((slots, block, *rows.shape[2:]), dtype=rows.dtype) for rows in arrays]
        self._slots: OrderedDict[int, tuple[int, list[Future[None]]]] = OrderedDict()
        self._count = slots
        self._images = arrays[0].shape[1]
        self._blocks = -(-self._images // block)

    def request(self, views: Int64[np.ndarray, " samples"], indices: Int64[np.ndarray, " samples"]) -> None:
        """Begin to read the samples' blocks, if they are not there."""
        keys = views * self._blocks + indices // self._block
        _, first = np.unique(keys, return_index=True)
        for key in keys[np.sort(first)].tolist():
            if key in self._slots:
                self._slots.move_to_end(key)
                continue
            slot = len(self._slots)
            if slot == self._count:
                _, (slot, reading) = self._slots.popitem(last=False)
                for task in reading:  # its memory is free when nobody writes to it any more
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
        """Copy the samples' rows of each array to `outs`, (samples, ...); they must have been requested."""
        numbers, within = np.divmod(indices, self._block)
        keys, inverse = np.unique(views * self._blocks + numbers, return_inverse=True)
        slots = np.empty(len(keys), dtype=np.int64)
        for k, key in enumerate(keys.tolist()):
            slots[k], tasks = self._slots[key]
            for task in tasks:
                task.result()
        places = slots[inverse]
        for rows, memory, out in zip(self._arrays, self._memory, outs, strict=True):
            if rows.bytes < _LARGE:
                out[:] = memory[places, within]
            else:  # row by row, so that nothing is copied twice
                for i, (place, row) in enumerate(zip(places.tolist(), within.tolist(), strict=True)):
                    out[i] = memory[place, row]
