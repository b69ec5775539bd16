"""The parts of a training split of which some images are held out, as positions in the split.

Both branches of a study with `selection` read the same files. A part is an index into the training split, and an image
is identified by its position in the complete split. Its augmented views (`mem.data.loading.transforms`) are therefore
the same in both branches, and they depend neither on the number of processes nor on the other images of the part.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Int64

from mem import longtail
from mem.config import Holdout
from mem.errors import UserError

Positions = Int64[np.ndarray, " _"]
"""Positions of images in the training split, in ascending order."""


def parts_of_train(labels: Int64[np.ndarray, " images"], holdout: Holdout) -> dict[str, Positions]:
    """Return the training images that a branch with held-out images uses as train, val and test.

    Test is empty, because the branch must not use test. The held-out images are those that `dataset.holdout` would
    take from the same training split.

    Args:
        labels: Class of each image of the training split. Every class has an image.
        holdout: The share of each class to hold out, and the seed.

    Raises:
        UserError: The share selects less than one image per class.
    """
    classes = int(labels.max(initial=-1)) + 1
    cut = longtail.hold_out_share(labels, classes, holdout.share, holdout.seed, "holdout")
    if not len(cut.rest):
        raise UserError(
            f"selection.holdout.share: {holdout.share:g} selects less than one image of every class. Increase it."
        )
    return {"train": cut.train, "val": cut.rest, "test": np.zeros(0, dtype=np.int64)}


def require_no_val(val_images: int) -> None:
    """Check that a dataset of which training images are held out has no val split.

    Raises:
        UserError: The dataset has a val split.
    """
    if val_images:
        raise UserError(
            f"selection: the dataset has a val split of {val_images:,} images, on which settings are chosen. Remove "
            "`selection` from the study."
        )


def describe_parts(labels: Int64[np.ndarray, " images"], parts: Mapping[str, Positions]) -> dict[str, int]:
    """Return how many training images a branch holds out and keeps, for run.json."""
    held_out = parts["val"]
    return {
        "held_out_images": len(held_out),
        "training_images": len(parts["train"]),
        "classes_without_held_out_images": int(labels.max()) + 1 - len(np.unique(labels[held_out])),
    }
