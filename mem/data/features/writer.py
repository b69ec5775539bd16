"""Resumable writer for feature files. It uses bounded memory and supports any number of processes.

Features are written in chunks. Incomplete files are in the subfolder `unfinished`. The workflow does not declare this
folder as an output, so Snakemake does not delete it after an interruption. The file `unfinished/map` contains one byte
per chunk, which is set to 1 when the chunk is on disk.

The writer does not use a memory map, because mapped pages count as process memory, and because a full disk would kill
the process with SIGBUS instead of raising an error.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mem import files
from mem.data.features.stored import create_feature_file, feature_file
from mem.errors import UserError

UNFINISHED_FOLDER = "unfinished"
DIVERGED = "the backbone diverged during training. Finetune it again with a lower base_lr."
"""Cause of values that are not finite in float32 or bfloat16."""
DTYPE_SETTINGS = {"pooled": "pooled_dtype", "tokens": "dtype"}
"""Setting of `features` that contains the data type of stored features, by kind."""


@dataclass(frozen=True)
class Chunk:
    """Consecutive images of one split in one view."""

    split: str
    view: int
    first: int
    """Index of the first image."""
    count: int
    """Number of images."""
    number: int
    """Index of the chunk among the chunks of all splits and views, and in the file `map`."""


@dataclass(frozen=True)
class SplitLayout:
    """Shapes and dtypes of a split's feature files. The field names are keys in plan.json."""

    views: int
    images: int
    shapes: Mapping[str, tuple[int, ...]]
    """Shape of the features of one image, by kind (`pooled`, `tokens`)."""
    dtypes: Mapping[str, str]
    """NumPy dtype, by kind."""


class FeatureWriter:
    """Writes the feature files of all splits.

    One process calls `create_or_resume`. All processes then write their chunks and call `close`. Afterwards, one
    process calls `finish`.

    Args:
        folder: Destination folder of the finished files.
        key: Key of the run. Unfinished files with a different key are discarded.
        layouts: The files to write, by split.
        chunk_images: Number of images per chunk.
        save_seconds: Interval between saves, in seconds. An interruption loses the chunks written since the last save.
        not_finite: Cause of values that are not finite, and advice, for the error message.
    """

    def __init__(
        self,
        folder: Path,
        key: str,
        layouts: Mapping[str, SplitLayout],
        chunk_images: int,
        save_seconds: float,
        not_finite: str = DIVERGED,
    ) -> None:
        self._not_finite = not_finite
        self._target, self._folder, self._layouts = folder, folder / UNFINISHED_FOLDER, layouts
        # Do not change this content: otherwise, runs interrupted with an earlier version cannot be resumed.
        parts = {split: vars(layout) for split, layout in layouts.items()}
        self._plan = {"key": key, "size": chunk_images, "parts": parts}
        self._chunk_images, self._save_seconds = chunk_images, save_seconds
        self._open: dict[tuple[str, str], tuple[int, int]] = {}
        self._unsaved: list[int] = []
        self._saved_at = time.monotonic()

    @property
    def plan_file(self) -> Path:
        """Path of the file that describes the unfinished files."""
        return self._folder / "plan.json"

    @property
    def map_file(self) -> Path:
        """Path of the file with one byte per chunk: 1 if the chunk is on disk."""
        return self._folder / "map"

    def create_or_resume(self) -> int:
        """Create the files, or resume unfinished files of this run. Call this before other processes use the writer.

        Returns:
            Number of images, summed over views, that are already on disk.
        """
        plan = json.dumps(self._plan, sort_keys=True)
        if not self._can_resume(plan):
            shutil.rmtree(self._folder, ignore_errors=True)
            for split, layout in self._layouts.items():
                for kind, shape in layout.shapes.items():
                    full_shape = (layout.views, layout.images, *shape)
                    create_feature_file(self._folder, split, kind, full_shape, layout.dtypes[kind])
            with files.atomic(self.map_file, "wb") as file:
                file.write(bytes(len(list(self.chunks()))))
            files.write_text(self.plan_file, plan)
        saved = self._read_map()
        return sum(chunk.count for chunk in self.chunks() if saved[chunk.number])

    def _can_resume(self, plan: str) -> bool:
        """Return whether the unfinished files belong to this run and have the expected shapes."""
        try:
            if self.plan_file.read_text() != plan or len(self._read_map()) != len(list(self.chunks())):
                return False
            for split, layout in self._layouts.items():
                for kind, shape in layout.shapes.items():
                    array = np.load(feature_file(self._folder, split, kind), mmap_mode="r")
                    if array.shape != (layout.views, layout.images, *shape) or array.dtype != layout.dtypes[kind]:
                        return False
        except (OSError, ValueError):
            return False
        return True

    def _read_map(self) -> bytes:
        return self.map_file.read_bytes()

    def chunks(self) -> Iterator[Chunk]:
        """Yield the chunks of all splits and views, in the order of their indices."""
        number = 0
        for split, layout in self._layouts.items():
            for view in range(layout.views):
                for first in range(0, layout.images, self._chunk_images):
                    yield Chunk(split, view, first, min(self._chunk_images, layout.images - first), number)
                    number += 1

    def missing_chunks(self) -> list[Chunk]:
        """Return the chunks that are not on disk, in order."""
        saved = self._read_map()
        return [chunk for chunk in self.chunks() if not saved[chunk.number]]

    def write(self, chunk: Chunk, features: Mapping[str, np.ndarray]) -> None:
        """Write a chunk. Also save if `save_seconds` have passed since the last save.

        Args:
            chunk: The chunk to write.
            features: Features of the chunk's images, by kind, each of shape (images, ...).

        Raises:
            UserError: Values are not finite or exceed the range of the file's dtype.
            OSError: Writing failed, for example because the disk is full.
        """
        layout = self._layouts[chunk.split]
        for kind, values in features.items():
            descriptor, offset = self._file(chunk.split, kind)
            dtype = np.dtype(layout.dtypes[kind])
            with np.errstate(over="ignore"):
                content = np.ascontiguousarray(values, dtype=dtype)
            if not np.isfinite(content).all():
                raise UserError(_not_finite_message(chunk, kind, values, dtype, self._not_finite))
            row = chunk.view * layout.images + chunk.first
            remaining = content.data.cast("B")
            position = offset + row * (content.nbytes // len(content))
            with files.naming(feature_file(self._folder, chunk.split, kind)):
                while remaining:
                    count = os.pwrite(descriptor, remaining, position)
                    remaining, position = remaining[count:], position + count
        self._unsaved.append(chunk.number)
        if time.monotonic() - self._saved_at >= self._save_seconds:
            self.save()

    def save(self) -> None:
        """Flush the written chunks to disk, then mark them in the map."""
        for (split, kind), (descriptor, _) in self._open.items():
            with files.naming(feature_file(self._folder, split, kind)):
                os.fdatasync(descriptor)
        with files.naming(self.map_file):
            descriptor = os.open(self.map_file, os.O_WRONLY)
            try:
                for number in self._unsaved:
                    os.pwrite(descriptor, b"\1", number)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        self._unsaved = []
        self._saved_at = time.monotonic()

    def close(self) -> None:
        """Save the written chunks and close the files."""
        if self._unsaved:
            self.save()
        for descriptor, _ in self._open.values():
            os.close(descriptor)
        self._open = {}

    def finish(self) -> None:
        """Move the complete files to the destination folder. Call this after all processes have called `close`."""
        for split, layout in self._layouts.items():
            for kind in layout.shapes:
                os.replace(feature_file(self._folder, split, kind), feature_file(self._target, split, kind))
        files.sync_folder(self._target)
        shutil.rmtree(self._folder)

    def _file(self, split: str, kind: str) -> tuple[int, int]:
        """Return a file's descriptor and the offset of its first value, in bytes."""
        if (split, kind) not in self._open:
            path = feature_file(self._folder, split, kind)
            offset = np.load(path, mmap_mode="r").offset
            self._open[split, kind] = os.open(path, os.O_WRONLY), offset
        return self._open[split, kind]


def chunks_of_rank(chunks: list[Chunk], rank: int, ranks: int) -> list[Chunk]:
    """Return the chunks that a rank writes, in order.

    Chunks are dealt out in turn, so that every rank has a part of each view: views differ in the cost of their
    augmentation, and ranks that end early wait for the others.
    """
    return chunks[rank::ranks]


def _not_finite_message(chunk: Chunk, kind: str, values: np.ndarray, dtype: np.dtype, cause: str) -> str:
    finite = np.isfinite(values).reshape(len(values), -1).all(axis=1)
    if finite.all():
        last = chunk.first + chunk.count - 1
        setting = f"features.{DTYPE_SETTINGS[kind]}"
        return (
            f"{setting}: {kind} features of images {chunk.first} to {last} of {chunk.split} have values "
            f"up to {np.abs(values).max():.3g}, but the maximum of {dtype} is {np.finfo(dtype).max:.3g}. Set "
            f"{setting} to float32."
        )
    image = chunk.first + int(np.flatnonzero(~finite)[0])
    return f"The {kind} feature of image {image} of {chunk.split} (view {chunk.view}) is not finite: {cause}"
