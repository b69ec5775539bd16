"""Names of classes in words, with which prompts for a text model are completed."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import cache

from timm.data.imagenet_info import ImageNetInfo

from mem.errors import UserError, first_of

_WORDNET_ID = re.compile(r"n\d{8}")
_LARGEST_SUBSET = "imagenet-21k-goog"
"""Subset of ImageNet with all WordNet ids that timm knows."""


def names_in_words(classes: Sequence[str]) -> tuple[str, ...]:
    """Return the name of each class in words.

    WordNet ids, which are the folder names of ImageNet, are replaced by the first name of their synset. Where several
    classes have the same first name, the name contains all names of the synset or, if they are equal as well, its
    definition. In other names, underscores are replaced by spaces, as in LIFT's prompts.

    Args:
        classes: Classes of the dataset.

    Raises:
        UserError: The classes are numbers, or WordNet ids that ImageNet does not contain.
    """
    if all(name.strip().isdigit() for name in classes):
        raise UserError(
            f"The classes of the dataset have numbers as names ({first_of(classes)}), which mean nothing to a text "
            "model. Set dataset.class_names to a file with the names (docs/how-to/data.md)."
        )
    if all(_WORDNET_ID.fullmatch(name) for name in classes):
        return _imagenet_names(tuple(classes))
    return tuple(name.replace("_", " ") for name in classes)


def _imagenet_names(classes: tuple[str, ...]) -> tuple[str, ...]:
    synsets = _descriptions()
    if unknown := [name for name in classes if name not in synsets]:
        raise UserError(
            f"{len(unknown)} of {len(classes)} classes look like WordNet ids of ImageNet, but are unknown: "
            f"{first_of(unknown)}. Set dataset.class_names to a file with the names."
        )
    names = [synsets[name][0].partition(",")[0].strip() for name in classes]
    for detail in (0, 1):
        counts = Counter(names)
        names = [synsets[each][detail] if counts[name] > 1 else name for each, name in zip(classes, names, strict=True)]
    return tuple(names)


@cache
def _descriptions() -> dict[str, tuple[str, str]]:
    """Return the names of each WordNet id, and its names with the definition."""
    info = ImageNetInfo(_LARGEST_SUBSET)
    return {
        name: (info.label_name_to_description(name), info.label_name_to_description(name, detailed=True))
        for name in info.label_names()
    }
