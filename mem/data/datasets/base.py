"""What a reader of a data set gives: splits of labelled images, each with a name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64, UInt8

from mem.errors import UserError

Image = UInt8[np.ndarray, "height width 3"]


@dataclass(frozen=True)
class Split:
    """One split of a data set."""

    labels: Int64[np.ndarray, " images"]
    names: tuple[str, ...]
    """Where each image came from; unique over all splits of a data set."""
    read: Callable[[int], np.ndarray]
    """The i-th image as an array of shape (height, width, 3), uint8."""

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class ImageSet:
    """A long-tailed data set, as its reader found it."""

    classes: tuple[str, ...]
    """Names of the classes; a label is a position in this list."""
    train: Split
    val: Split
    test: Split

    @property
    def splits(self) -> dict[str, Split]:
        """The three splits by name."""
        return {"train": self.train, "val": self.val, "test": self.test}

    def prove_disjoint(self) -> None:
        """Raise where an image stands in two splits, or twice in one.

        Raises:
            UserError: Names of the images, and the splits they stand in.
        """
        seen: dict[str, str] = {}
        for split_name, split in self.splits.items():
            for name in split.names:
                if name in seen:
                    raise UserError(f"Image {name} stands in {seen[name]} and in {split_name}: splits must be disjoint")
                seen[name] = split_name


def grey_to_rgb(image: np.ndarray) -> np.ndarray:
    """Three equal channels of a grey image."""
    return np.repeat(image[:, :, None], 3, axis=2)
