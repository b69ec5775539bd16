"""Reader for Places-LT (Liu et al. 2019), published as lists of Places365-Standard images.

The val split is a subset of the Places training images. The test split consists of the Places validation images.
"""

from __future__ import annotations

import re

from mem.config import PlacesLt
from mem.data.datasets.base import ImageSet
from mem.data.datasets.published_lists import read_published_lists
from mem.data.datasets.reference_counts import PLACES_LT

_TRAIN = re.compile(r"(?:.*/)?(?:train|(?:data_256|data_large)/[a-z])/(.+)/([^/]+)")
_VAL = re.compile(r"(?:.*/)?(?:val|val_256|val_large)/(?:(.+)/)?([^/]+)")


def read_places_lt(settings: PlacesLt) -> ImageSet:
    """Read the three lists, in either layout of Places365-Standard.

    The "easy" layout contains `train/airfield/FILE`, `train/apartment_building-outdoor/FILE` and `val/airfield/FILE`.
    The other layout contains `data_256/a/airfield/FILE`, `data_256/a/apartment_building/outdoor/FILE` and
    `val_256/FILE`.

    Raises:
        UserError: A list is missing, invalid or from a different dataset.
    """
    expected = "train/airfield/NAME.jpg and val/airfield/NAME.jpg, or data_256/a/airfield/NAME.jpg and val_256/NAME.jpg"
    return read_published_lists(settings, canonical_name, expected, PLACES_LT)


def canonical_name(path: str) -> tuple[str, str] | None:
    """Return the image name (`train/CATEGORY/FILE` or `val/FILE`) and the category of a path.

    See `mem.data.datasets.published_lists.CanonicalName`.
    """
    if found := _TRAIN.fullmatch(path):
        category = found[1].replace("/", "-")
        return f"train/{category}/{found[2]}", category
    if found := _VAL.fullmatch(path):
        return f"val/{found[2]}", (found[1] or "").replace("/", "-")
    return None
