"""What a reader of a data set gives: splits of labelled images, each with a name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from jaxtyping import Int64, UInt8

from mem.data.datasets.problems import Problems
from mem.data.datasets.reference_counts import ReferenceCounts

Image = UInt8[np.ndarray, "height width 3"]


@dataclass(frozen=True)
class ImageSplit:
    """One split of a data set. Its reader has seen indexes only: no image was opened, nor looked for."""

    labels: Int64[np.ndarray, " images"]
    names: tuple[str, ...]
    """Where each image came from, in a form that is the same wherever and however the data set is stored; unique over
    all splits. Names of files that are not UTF-8 hold surrogates (`os.fsdecode`)."""
    read: Callable[[int], np.ndarray | bytes]
    """The i-th image: its pixels, (height, width, 3), uint8, or the content of an image file."""
    files: Sequence[str] | None = None
    """Path of each image's file, where there is one an image; absolute or relative to the working folder."""

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, positions: Int64[np.ndarray, " chosen"]) -> ImageSplit:
        """The images at `positions`, in that order."""
        return ImageSplit(
            labels=self.labels[positions],
            names=tuple(self.names[i] for i in positions.tolist()),
            read=lambda i: self.read(int(positions[i])),
            files=None if self.files is None else SelectedItems(self.files, positions),
        )


class PrefixedPaths(Sequence[str]):
    """Paths below a folder, joined only when asked for: a million of them cost no memory of their own."""

    def __init__(self, folder: str, paths: Sequence[str]) -> None:
        self._start = folder if folder.endswith("/") else f"{folder}/"
        self._paths = paths

    def __len__(self) -> int:
        return len(self._paths)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> PrefixedPaths: ...
    def __getitem__(self, index: int | slice) -> str | PrefixedPaths:
        """The path at a position, or those of a stretch."""
        if isinstance(index, slice):
            return PrefixedPaths(self._start, self._paths[index])
        return self._start + self._paths[index]

    def __iter__(self) -> Iterator[str]:
        return (self._start + path for path in self._paths)


class SelectedItems(Sequence[str]):
    """Some of a sequence's entries, in another order."""

    def __init__(self, entries: Sequence[str], positions: np.ndarray) -> None:
        self._entries = entries
        self._positions = positions

    def __len__(self) -> int:
        return len(self._positions)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> SelectedItems: ...
    def __getitem__(self, index: int | slice) -> str | SelectedItems:
        """The entry at a position, or those of a stretch."""
        if isinstance(index, slice):
            return SelectedItems(self._entries, self._positions[index])
        return self._entries[int(self._positions[index])]


@dataclass(frozen=True)
class ImageSet:
    """A long-tailed data set, as its reader found it."""

    classes: tuple[str, ...]
    """Names of the classes; a label is a position in this list."""
    train: ImageSplit
    val: ImageSplit
    """Empty where the data set has none and none was made."""
    test: ImageSplit
    reference: ReferenceCounts | None = None
    """What is known of a published data set."""
    held_out: bool = False
    """Whether val was taken out of train by `holdout`: `facts` speak of both together as train."""
    notes: tuple[str, ...] = ()
    """What the reader found and left out, in sentences for the user."""

    @property
    def splits(self) -> dict[str, ImageSplit]:
        """The three splits by name."""
        return {"train": self.train, "val": self.val, "test": self.test}

    def require_disjoint(self) -> None:
        """Raise where an image stands in two splits, or twice in one.

        Names are made of normalised paths, so a file that is spelt in two ways is found too.

        Raises:
            UserError: How many images, the first of them, and the splits they stand in.
        """
        distinct = {name for split in self.splits.values() for name in split.names}
        if len(distinct) == sum(map(len, self.splits.values())):
            return
        faults = Problems("Splits must be disjoint, and no image may stand twice in one")
        seen: dict[str, str] = {}
        for split_name, split in self.splits.items():
            for name in split.names:
                first = seen.setdefault(name, "")
                if first:
                    where = f"twice in {first}" if first == split_name else f"in {first} and in {split_name}"
                    faults.add(f"images stand {where}", name)
                else:
                    seen[name] = split_name
        faults.raise_if_any()


def empty_split() -> ImageSplit:
    """A split without images."""

    def read(i: int) -> np.ndarray:
        raise IndexError(f"image {i} of an empty split")

    return ImageSplit(np.zeros(0, dtype=np.int64), (), read, ())


def split_of_files(folder: str, paths: Sequence[str], names: Sequence[str], labels: np.ndarray) -> ImageSplit:
    """A split whose images are files: `paths` below `folder`."""
    files = PrefixedPaths(folder, paths)

    def read(i: int) -> bytes:
        with open(files[i], "rb") as file:
            return file.read()

    return ImageSplit(labels, tuple(names), read, files)


def grey_to_rgb(image: np.ndarray) -> np.ndarray:
    """Three equal channels of a grey image."""
    return np.repeat(image[:, :, None], 3, axis=2)
