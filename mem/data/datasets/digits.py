"""Digits-LT: the 1,797 handwritten digits that ship with scikit-learn, cut to a long tail."""

from __future__ import annotations

import numpy as np

from mem import longtail
from mem.config import Digits
from mem.data.datasets.base import ImageSet, ImageSplit, grey_to_rgb

_TEST_SEED = 0
"""The test split is the same for every cut and every order of the classes."""


def read_digits(settings: Digits, order: int) -> ImageSet:
    """Set a balanced test split aside, then cut the rest.

    Raises:
        UserError: A class has fewer images than train, val and test need.
    """
    from sklearn.datasets import load_digits  # seconds, which no other data set needs to wait

    pixels, target = load_digits(return_X_y=True)
    # Values go from 0 to 16.
    images = np.round(np.asarray(pixels).reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    labels = np.asarray(target, dtype=np.int64)
    aside = longtail.cut(labels, np.full(10, settings.test_per_class), 0, _TEST_SEED)
    pool = np.setdiff1d(np.arange(len(labels)), aside.train)
    kept = longtail.cut_to_tail(labels[pool], 10, settings.cut, order)

    def split(positions: np.ndarray) -> ImageSplit:
        return ImageSplit(
            labels=labels[positions],
            names=tuple(f"digits/{i}" for i in positions),
            read=lambda i: grey_to_rgb(images[positions[i]]),
        )

    return ImageSet(tuple("0123456789"), split(pool[kept.train]), split(pool[kept.rest]), split(aside.train))
