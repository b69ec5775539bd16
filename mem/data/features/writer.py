"""Writing features in pieces: bounded memory, any number of processes, and going on where it was broken off.

Pieces are written through the file, not through a mapping: pages of a mapping count as the process's memory, and a full
disk would kill it where a write says what is wrong. Until all is there the files are in a folder of their own, which no
workflow declares as an output and so none removes; a map beside them has a byte for each piece, which is set once the
piece is on disk.
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
from mem.data.features.files import create_feature_file, feature_file
from mem.errors import UserError

UNFINISHED = "unfinished"
"""Folder of what is in the making."""


@dataclass(frozen=True)
class Piece:
    """Neighbouring images of a split, seen in one view."""

    split: str
    view: int
    first: int
    count: int
    number: int
    """Its place in the map."""


@dataclass(frozen=True)
class Part:
    """The features of one split that there are to be."""

    views: int
    images: int
    shapes: Mapping[str, tuple[int, ...]]
    """Shape of an image's features, by kind."""
    dtypes: Mapping[str, str]
    """Type of numbers, by kind."""


class FeatureWriter:
    """Features of all splits in the making.

    Args:
        folder: Where they are to be.
        key: Of the run. What was made under another key is not gone on from.
        parts: What there is to be, by split.
        size: Images of a piece.
        save_seconds: How much work is lost at most, beside the piece in hand.
    """

    def __init__(self, folder: Path, key: str, parts: Mapping[str, Part], size: int, save_seconds: float) -> None:
        self._target, self._folder, self._parts = folder, folder / UNFINISHED, parts
        self._plan = {"key": key, "size": size, "parts": {name: vars(part) for name, part in parts.items()}}
        self._size, self._save_seconds = size, save_seconds
        self._open: dict[tuple[str, str], tuple[int, int]] = {}
        self._unsaved: list[int] = []
        self._saved = time.monotonic()

    @property
    def plan_file(self) -> Path:
        """Says what is in the making."""
        return self._folder / "plan.json"

    @property
    def map_file(self) -> Path:
        """A byte for each piece: whether it is there."""
        return self._folder / "map"

    def begin(self) -> int:
        """Make the files, or keep those that are half-written; by one process, before others `open`.

        Returns:
            Images (times views) that are there already.
        """
        plan = json.dumps(self._plan, sort_keys=True)
        if not self._goes_on(plan):
            shutil.rmtree(self._folder, ignore_errors=True)
            for split, part in self._parts.items():
                for kind, shape in part.shapes.items():
                    create_feature_file(self._folder, split, kind, (part.views, part.images, *shape), part.dtypes[kind])
            with files.atomic(self.map_file, "wb") as file:
                file.write(bytes(len(list(self.pieces()))))
            files.write_text(self.plan_file, plan)
        done = self._map()
        return sum(piece.count for piece in self.pieces() if done[piece.number])

    def _goes_on(self, plan: str) -> bool:
        """Whether the files that are there are this run's, and whole but for their content."""
        try:
            if self.plan_file.read_text() != plan or len(self._map()) != len(list(self.pieces())):
                return False
            for split, part in self._parts.items():
                for kind, shape in part.shapes.items():
                    found = np.load(feature_file(self._folder, split, kind), mmap_mode="r")
                    if found.shape != (part.views, part.images, *shape) or found.dtype != part.dtypes[kind]:
                        return False
        except (OSError, ValueError):
            return False
        return True

    def _map(self) -> bytes:
        return self.map_file.read_bytes()

    def pieces(self) -> Iterator[Piece]:
        """All pieces, in order."""
        number = 0
        for split, part in self._parts.items():
            for view in range(part.views):
                for first in range(0, part.images, self._size):
                    yield Piece(split, view, first, min(self._size, part.images - first), number)
                    number += 1

    def missing(self) -> list[Piece]:
        """The pieces that are not there."""
        done = self._map()
        return [piece for piece in self.pieces() if not done[piece.number]]

    def write(self, piece: Piece, features: Mapping[str, np.ndarray]) -> None:
        """Write a piece, and save now and then.

        Args:
            piece: The piece.
            features: Of its images, by kind.

        Raises:
            UserError: They are not finite, or too large for the type that they are kept in.
            OSError: The disk is full, and the like.
        """
        for kind, values in features.items():
            descriptor, start = self._file(piece.split, kind)
            dtype = np.dtype(self._parts[piece.split].dtypes[kind])
            with np.errstate(over="ignore"):
                content = np.ascontiguousarray(values, dtype=dtype)
            if not np.isfinite(content).all():
                raise UserError(_not_finite(piece, kind, values, dtype))
            images = piece.view * self._parts[piece.split].images + piece.first
            left = content.data.cast("B")
            position = start + images * (content.nbytes // len(content))
            while left:
                count = os.pwrite(descriptor, left, position)
                left, position = left[count:], position + count
        self._unsaved.append(piece.number)
        if time.monotonic() - self._saved >= self._save_seconds:
            self.save()

    def save(self) -> None:
        """Make what was written durable, then say so in the map."""
        for descriptor, _ in self._open.values():
            os.fdatasync(descriptor)
        descriptor = os.open(self.map_file, os.O_WRONLY)
        try:
            for number in self._unsaved:
                os.pwrite(descriptor, b"\1", number)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        self._unsaved = []
        self._saved = time.monotonic()

    def close(self) -> None:
        """Save, and close the files."""
        if self._unsaved:
            self.save()
        for descriptor, _ in self._open.values():
            os.close(descriptor)
        self._open = {}

    def done(self) -> None:
        """All is there: let it take its names; by one process, after all have closed."""
        for split, part in self._parts.items():
            for kind in part.shapes:
                os.replace(feature_file(self._folder, split, kind), feature_file(self._target, split, kind))
        files.sync_folder(self._target)
        shutil.rmtree(self._folder)

    def _file(self, split: str, kind: str) -> tuple[int, int]:
        """Descriptor of a file, and where its numbers begin."""
        if (split, kind) not in self._open:
            path = feature_file(self._folder, split, kind)
            start = np.load(path, mmap_mode="r").offset
            self._open[split, kind] = os.open(path, os.O_WRONLY), start
        return self._open[split, kind]


def each_rank(pieces: list[Piece], rank: int, ranks: int) -> list[Piece]:
    """A rank's stretch of the pieces."""
    return pieces[rank * len(pieces) // ranks : (rank + 1) * len(pieces) // ranks]


def _not_finite(piece: Piece, kind: str, values: np.ndarray, dtype: np.dtype) -> str:
    rows = np.isfinite(values).reshape(len(values), -1).all(axis=1)
    if rows.all():
        return (
            f"features.dtype: {kind} of the images from {piece.first} of {piece.split} reach "
            f"{np.abs(values).max():.3g}, and {dtype} ends at {np.finfo(dtype).max:.3g}. Set features.dtype to float32"
        )
    image = piece.first + int(np.flatnonzero(~rows)[0])
    return (
        f"The backbone's {kind} feature of image {image} of {piece.split} (view {piece.view}) is not finite: its "
        "training went wrong. Finetune it again, with a lower base_lr"
    )
