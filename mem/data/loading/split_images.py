"""The images of a split: all images of a .beton file, or a part of the training split."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from mem.config import Holdout
from mem.data.beton.reader import Beton
from mem.data.split_parts import Positions, parts_of_train, require_no_val


@dataclass(frozen=True)
class SplitImages:
    """Images of a .beton file."""

    file: Beton
    positions: Positions
    """Position of each image in the file."""

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def labels(self) -> Int64[np.ndarray, " images"]:
        """Class of each image."""
        return self.file.labels[self.positions]


def open_images(folder: Path, split: str, holdout: Holdout | None = None) -> SplitImages:
    """Open the images of a split of a converted dataset.

    Args:
        folder: Folder of the conversion.
        split: `train`, `val` or `test`.
        holdout: Training images that are used as val. Only the training split is then read, and test is empty. None
            selects the splits of the dataset.

    Raises:
        UserError: A file is missing or damaged, or images of a dataset with a val split would be held out.
    """
    if holdout is None:
        file = Beton(folder / f"{split}.beton")
        return SplitImages(file, np.arange(len(file)))
    require_no_val(len(Beton(folder / "val.beton")))
    file = Beton(folder / "train.beton")
    return SplitImages(file, parts_of_train(file.labels, holdout)[split])
