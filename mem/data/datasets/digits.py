"""Reader for Digits-LT: the 1,797 handwritten digits included in scikit-learn, reduced to a long tail."""

from __future__ import annotations

import numpy as np

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
    from sklearn.datasets import load_digits  # the import takes seconds, and no other dataset needs it

    pixels, target = load_digits(return_X_y=True)
    pixels = np.asarray(pixels).reshape(-1, DIGITS_SIDE, DIGITS_SIDE)  # values from 0 to 16
    images = np.round(pixels * (255 / 16)).astype(np.uint8)
    labels = np.asarray(target, dtype=np.int64)
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
