"""What the readers of published lists share: names in one form, classes checked against folders, one order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from mem.config.sources import Published
from mem.data.datasets import labels
from mem.data.datasets.base import ImageSet, ImageSplit, empty_split, split_of_files
from mem.data.datasets.index_files import Rows, read_list
from mem.data.datasets.problems import Problems
from mem.data.datasets.reference_counts import ReferenceCounts

Canonical = Callable[[str], tuple[str, str] | None]
"""From a listed path to the image's name and its class's folder ("" where the path does not tell); nothing where the
path is none of this data set."""


def read_published(settings: Published, canonical: Canonical, expected: str, facts: ReferenceCounts) -> ImageSet:
    """Read a data set given as one list a split.

    Images are put in the order of their names, so that lists with other spellings or another order give the same
    data set.

    Args:
        settings: Says where the lists and the images are.
        canonical: Understands a path.
        expected: What paths look like, for messages.
        facts: Known totals.

    Raises:
        UserError: A list is missing or wrong, a path is none of this data set, or labels disagree with folders.
    """
    rows = {split: read_list(path) for split, path in settings.index_files().items()}
    numbers = {split: labels.numeric_labels(listed) for split, listed in rows.items()}
    named = {split: _understood(listed, canonical, expected) for split, listed in rows.items()}
    classes = _classes(rows, numbers, {split: folders for split, (_, folders) in named.items()})
    splits = {
        split: in_name_order(settings.root, listed.paths, named[split][0], numbers[split])
        for split, listed in rows.items()
    }
    return ImageSet(classes, splits["train"], splits.get("val", empty_split()), splits["test"], facts)


def in_name_order(root: str, paths: list[str], names: list[str], numbers: np.ndarray) -> ImageSplit:
    """A split of files, sorted by name."""
    order = sorted(range(len(names)), key=names.__getitem__)
    return split_of_files(
        str(Path(root).expanduser()), [paths[i] for i in order], [names[i] for i in order], numbers[order]
    )


def _understood(rows: Rows, canonical: Canonical, expected: str) -> tuple[list[str], list[str]]:
    """Name and class folder of each row."""
    faults = Problems(rows.origin)
    names: list[str] = []
    folders: list[str] = []
    for i, path in enumerate(rows.paths):
        found = canonical(path)
        if found is None:
            faults.add("paths that are none of this data set", f"line {rows.lines[i]}: {path}", f"Expected {expected}")
        else:
            names.append(found[0])
            folders.append(found[1])
    faults.raise_if_any()
    return names, folders


def _classes(
    rows: Mapping[str, Rows], numbers: Mapping[str, np.ndarray], folders: Mapping[str, list[str]]
) -> tuple[str, ...]:
    """Names of the classes, which are their folders'.

    Each label has one folder in all lists, and each folder one label.

    Raises:
        UserError: Labels and folders disagree, or a class has no training image.
    """
    origin = ", ".join(listed.origin for listed in rows.values())
    number = labels.check_classes(numbers, None, origin)
    folder_of: dict[int, str] = {}
    label_of: dict[str, int] = {}
    faults = Problems(origin)
    for split, listed in rows.items():
        for i, (label, folder) in enumerate(zip(numbers[split].tolist(), folders[split], strict=True)):
            if not folder:
                continue
            first_folder, first_label = folder_of.setdefault(label, folder), label_of.setdefault(folder, label)
            if first_folder != folder or first_label != label:
                before = f"{first_folder} is {label}" if first_folder != folder else f"{folder} is {first_label}"
                faults.add(
                    "images whose folder and label disagree with an earlier line",
                    f"{split}, {listed.where(i)} ({before} there)",
                    "The lists are of different versions, or labels were numbered in another order",
                )
    faults.raise_if_any()
    return tuple(folder_of.get(label, str(label)) for label in range(number))
