"""Reader for Digits-LT: the 1,797 handwritten digits included in scikit-learn, reduced to a long tail."""

from __future__ import annotations

import gzip
import importlib.util
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int64

from mem import longtail
from mem.config import Digits
from mem.data.datasets.base import ImageSet, ImageSplit, gray_to_rgb
from mem.data.datasets.reference_counts import DIGITS_CLASSES, DIGITS_SIDE

_TEST_SEED = 0
"""Fixed seed, so that the test split is the same for every imbalance factor and class order."""


def read_digits(settings: Digits, order: int) -> ImageSet:
    """Set a balanced test split aside and reduce the remaining images to a long tail.

    Raises:
        UserError: A class has fewer images than train, val and test require in total.
    """
    pixels, labels = _load_digits()
    images = np.round(pixels * (255 / 16)).astype(np.uint8)
    held_aside = longtail.cut(labels, np.full(DIGITS_CLASSES, settings.test_per_class), 0, _TEST_SEED)
    pool = np.setdiff1d(np.arange(len(labels)), held_aside.train)
    kept = longtail.cut_to_tail(labels[pool], DIGITS_CLASSES, settings.cut, order)

    def split(positions: np.ndarray) -> ImageSplit:
        return ImageSplit(
            labels=labels[positions],
            names=tuple(f"digits/{i}" for i in positions),
            read=lambda i: gray_to_rgb(images[positions[i]]),
        )

    return ImageSet(tuple("0123456789"), split(pool[kept.train]), split(pool[kept.rest]), split(held_aside.train))


def _load_digits() -> tuple[Float64[np.ndarray, "images 8 8"], Int64[np.ndarray, " images"]]:
    """Return the pixels, with values from 0 to 16, and the labels of scikit-learn's digits.

    The file is read without scikit-learn if it is where scikit-learn 1.9 stores it, because the import of
    scikit-learn takes longer than everything else that `mem data check` does.
    """
    package = importlib.util.find_spec("sklearn")  # finds the package without importing it
    folders = (package.submodule_search_locations if package else None) or []
    found = [path for folder in folders if (path := Path(folder, "datasets", "data", "digits.csv.gz")).is_file()]
    if found:
        with gzip.open(found[0], "rt", encoding="utf-8") as file:
            table = np.loadtxt(file, delimiter=",")
        pixels, target = table[:, :-1], table[:, -1]
    else:
        from sklearn.datasets import load_digits

        pixels, target = map(np.asarray, load_digits(return_X_y=True))
    return pixels.reshape(-1, DIGITS_SIDE, DIGITS_SIDE).astype(np.float64), target.astype(np.int64)
