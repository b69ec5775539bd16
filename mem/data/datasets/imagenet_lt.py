"""ImageNet-LT (Liu et al. 2019): lists of images of ILSVRC 2012.

Its val split is a subset of ILSVRC's train. Its test split is ILSVRC's val.
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
    """Read the three lists. Paths of ILSVRC's val may have a synset folder or not.

    Raises:
        UserError: A list is missing, invalid or from another dataset.
    """
    expected = "train/n01440764/NAME.JPEG or val/n01440764/ILSVRC2012_val_NUMBER.JPEG"
    return read_published_lists(settings, canonical_name, expected, IMAGENET_LT)


def canonical_name(path: str) -> tuple[str, str] | None:
    """Return name (`train/SYNSET/FILE` or `val/FILE`) and synset of a path. See `published_lists.CanonicalName`."""
    if found := _TRAIN.fullmatch(path):
        return f"train/{found[1]}/{found[2]}", found[1]
    if found := _VAL.fullmatch(path):
        return f"val/{found[2]}", found[1] or ""
    return None
