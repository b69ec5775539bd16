"""Reader for ImageNet-LT (Liu et al. 2019), published as lists of ILSVRC 2012 images.

The val split is a subset of the ILSVRC training images. The test split consists of the ILSVRC validation images.
"""

from __future__ import annotations

import re

from mem.config import ImageNetLt
from mem.data.datasets.base import ImageSet
from mem.data.datasets.published_lists import read_published_lists
from mem.data.datasets.reference_counts import IMAGENET_LT

_TRAIN = re.compile(r"(?:.*/)?train/(n\d{8})/([^/]+)")
_VAL = re.compile(r"(?:.*/)?val/(?:(n\d{8})/)?([^/]+)")


def read_imagenet_lt(settings: ImageNetLt) -> ImageSet:
    """Read the three lists. Paths of ILSVRC validation images may omit the synset folder.

    Raises:
        UserError: A list is missing, invalid or from a different dataset.
    """
    expected = "train/n01440764/NAME.JPEG or val/n01440764/ILSVRC2012_val_NUMBER.JPEG"
    return read_published_lists(settings, canonical_name, expected, IMAGENET_LT)


def canonical_name(path: str) -> tuple[str, str] | None:
    """Return the image name (`train/SYNSET/FILE` or `val/FILE`) and the synset of a path.

    See `mem.data.datasets.published_lists.CanonicalName`.
    """
    if found := _TRAIN.fullmatch(path):
        return f"train/{found[1]}/{found[2]}", found[1]
    if found := _VAL.fullmatch(path):
        return f"val/{found[2]}", found[1] or ""
    return None
