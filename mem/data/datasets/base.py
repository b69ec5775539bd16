"""Data structures returned by dataset readers: splits of labelled images with unique names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from jaxtyping import Int64, UInt8

from mem.data.codecs.limits import read_image_file
from mem.data.datasets.problems import Problems
from mem.data.datasets.reference_counts import ReferenceCounts
from mem.longtail import class_counts

Image = UInt8[np.ndarray, "height width 3"]


@dataclass(frozen=True)
class ImageSplit:
    """One split of a dataset. Readers create it from index files, without accessing image files."""

    labels: Int64[np.ndarray, " images"]
    names: tuple[str, ...]
    """Name of each image, which identifies its source regardless of where and how the dataset is stored.

    Names are unique across splits. Bytes that are not valid UTF-8 are represented as surrogates (`os.fsdecode`).
    """
    read: Callable[[int], np.ndarray | bytes]
    """Function that returns image `i`, as uint8 pixels of shape (height, width, 3) or as the content of its file."""
    files: Sequence[str] | None = None
    """Absolute or relative path of each image file; None if the images are not in separate files."""

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, positions: Int64[np.ndarray, " chosen"]) -> ImageSplit:
        """Return a split with the images at `positions`, in that order."""
        return ImageSplit(
            labels=self.labels[positions],
            names=tuple(self.names[i] for i in positions.tolist()),
            read=lambda i: self.read(int(positions[i])),
            files=None if self.files is None else SelectedItems(self.files, positions),
        )


class PrefixedPaths(Sequence[str]):
    """Relative paths that are joined to a folder on access, so that a million joined paths need not be stored."""

    def __init__(self, folder: str, paths: Sequence[str]) -> None:
        self._prefix = folder if folder.endswith("/") else f"{folder}/"
        self._paths = paths

    def __len__(self) -> int:
        return len(self._paths)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> PrefixedPaths: ...
    def __getitem__(self, index: int | slice) -> str | PrefixedPaths:
        """Return the path at an index, or a lazy sequence for a slice."""
        if isinstance(index, slice):
            return PrefixedPaths(self._prefix, self._paths[index])
        return self._prefix + self._paths[index]

    def __iter__(self) -> Iterator[str]:
        return (self._prefix + path for path in self._paths)


class SelectedItems(Sequence[str]):
    """The items of a sequence at given positions, selected on access."""

    def __init__(self, items: Sequence[str], positions: np.ndarray) -> None:
        self._items = items
        self._positions = positions

    def __len__(self) -> int:
        return len(self._positions)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> SelectedItems: ...
    def __getitem__(self, index: int | slice) -> str | SelectedItems:
        """Return the item at an index, or a lazy sequence for a slice."""
        if isinstance(index, slice):
            return SelectedItems(self._items, self._positions[index])
        return self._items[int(self._positions[index])]


@dataclass(frozen=True)
class ImageSet:
    """A dataset, as returned by its reader."""

    classes: tuple[str, ...]
    """Class names. Labels are indices into this tuple."""
    train: ImageSplit
    val: ImageSplit
    """Empty if the dataset has no val split and none was created."""
    test: ImageSplit
    reference: ReferenceCounts | None = None
    """Published counts of the dataset, if any."""
    held_out: bool = False
    """Whether `holdout` moved images from train to val. The published training counts then cover both splits."""
    notes: tuple[str, ...] = ()
    """Messages for the user, for example about skipped files."""

    @property
    def splits(self) -> dict[str, ImageSplit]:
        """The splits train, val and test, by name."""
        return {"train": self.train, "val": self.val, "test": self.test}

    @property
    def counts_before_holdout(self) -> Int64[np.ndarray, " classes"]:
        """Number of training images of each class, including the images of a holdout. They define the shot groups."""
        counts = class_counts(self.train.labels, len(self.classes))
        return counts + class_counts(self.val.labels, len(self.classes)) if self.held_out else counts

    def require_disjoint(self) -> None:
        """Raise an error if an image occurs more than once.

        Images are compared by name. Names are derived from normalised paths, so different spellings of a path match.

        Raises:
            UserError: An image occurs more than once. The message gives the duplicates' number, splits and examples.
        """
        distinct = {name for split in self.splits.values() for name in split.names}
        if len(distinct) == sum(map(len, self.splits.values())):
            return
        problems = Problems("Each image must occur only once, in a single split")
        first_split: dict[str, str] = {}
        for split_name, split in self.splits.items():
            for name in split.names:
                first = first_split.setdefault(name, "")
                if first:
                    where = f"twice in {first}" if first == split_name else f"in both {first} and {split_name}"
                    problems.add(f"images listed {where}", name)
                else:
                    first_split[name] = split_name
        problems.raise_if_any()


def empty_split() -> ImageSplit:
    """Create a split without images."""

    def read(i: int) -> np.ndarray:
        raise IndexError(f"image {i} of an empty split")

    return ImageSplit(np.zeros(0, dtype=np.int64), (), read, ())


def split_of_files(folder: str, paths: Sequence[str], names: Sequence[str], labels: np.ndarray) -> ImageSplit:
    """Create a split from image files at `paths`, relative to `folder`.

    Its `read` raises `Unreadable` for a file that is too large, and `OSError` for one that cannot be read.
    """
    files = PrefixedPaths(folder, paths)

    def read(i: int) -> bytes:
        return read_image_file(files[i])

    return ImageSplit(labels, tuple(names), read, files)


def gray_to_rgb(image: np.ndarray) -> np.ndarray:
    """Convert a grayscale image to RGB by repeating its channel."""
    return np.repeat(image[:, :, None], 3, axis=2)
