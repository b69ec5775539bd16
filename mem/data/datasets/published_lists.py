"""Reader for published lists, shared by ImageNet-LT and Places-LT.

Image names and their order do not depend on the spelling and order of paths in a list. Labels are checked against class
folders.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from mem.config.sources import PublishedLists
from mem.data.datasets.base import ImageSet, ImageSplit, empty_split, split_of_files
from mem.data.datasets.index_files import Rows, read_list
from mem.data.datasets.labels import count_classes, numeric_labels
from mem.data.datasets.problems import Problems
from mem.data.datasets.reference_counts import ReferenceCounts

CanonicalName = Callable[[str], tuple[str, str] | None]
"""Function that maps a listed path to the image name and the class folder ("" if the path has none), or returns None if
the path does not belong to the dataset."""


def read_published_lists(
    settings: PublishedLists, canonical_name: CanonicalName, expected: str, reference: ReferenceCounts
) -> ImageSet:
    """Read a dataset that is published as one list per split.

    Images are sorted by name. Lists that spell or order the paths differently therefore result in the same dataset.

    Args:
        settings: Locations of the lists and the images.
        canonical_name: Function that parses a listed path.
        expected: Expected form of paths, for error messages.
        reference: Published counts of the dataset.

    Raises:
        UserError: A list is missing or invalid, a path does not belong to the dataset, or labels and folders are
            inconsistent.
    """
    rows = {split: read_list(path) for split, path in settings.list_files().items()}
    labels = {split: numeric_labels(listed) for split, listed in rows.items()}
    parsed = {split: _parse_paths(listed, canonical_name, expected) for split, listed in rows.items()}
    classes = _class_names(rows, labels, {split: folders for split, (_, folders) in parsed.items()})
    splits = {
        split: sort_by_name(settings.root, listed.paths, parsed[split][0], labels[split])
        for split, listed in rows.items()
    }
    return ImageSet(classes, splits["train"], splits.get("val", empty_split()), splits["test"], reference)


def sort_by_name(root: str, paths: list[str], names: list[str], labels: np.ndarray) -> ImageSplit:
    """Create a split from files below `root`, sorted by name."""
    by_name = sorted(range(len(names)), key=names.__getitem__)
    return split_of_files(
        str(Path(root).expanduser()), [paths[i] for i in by_name], [names[i] for i in by_name], labels[by_name]
    )


def _parse_paths(rows: Rows, canonical_name: CanonicalName, expected: str) -> tuple[list[str], list[str]]:
    """Return the image name and the class folder for each row."""
    problems = Problems(rows.origin)
    names: list[str] = []
    folders: list[str] = []
    for i, path in enumerate(rows.paths):
        parsed = canonical_name(path)
        if parsed is None:
            example = f"line {rows.lines[i]}: {path}"
            slashes = "Replace each backslash with `/`. " if "\\" in path else ""
            problems.add("paths that do not belong to this dataset", example, f"{slashes}Expected {expected}")
        else:
            names.append(parsed[0])
            folders.append(parsed[1])
    problems.raise_if_any()
    return names, folders


def _class_names(
    rows: Mapping[str, Rows], labels: Mapping[str, np.ndarray], folders: Mapping[str, list[str]]
) -> tuple[str, ...]:
    """Return the class names, which are the names of the class folders.

    In all lists, each label must correspond to exactly one folder and vice versa.

    Raises:
        UserError: Labels and folders are inconsistent, or a class has no training images.
    """
    origin = ", ".join(listed.origin for listed in rows.values())
    classes = count_classes(labels, None, origin)
    folder_of: dict[int, str] = {}
    label_of: dict[str, int] = {}
    problems = Problems(origin)
    for split, listed in rows.items():
        for i, (label, folder) in enumerate(zip(labels[split].tolist(), folders[split], strict=True)):
            if not folder:
                continue
            first_folder, first_label = folder_of.setdefault(label, folder), label_of.setdefault(folder, label)
            if first_folder != folder or first_label != label:
                earlier = f"{first_folder} is {label}" if first_folder != folder else f"{folder} is {first_label}"
                problems.add(
                    "images whose folder and label contradict an earlier line",
                    f"{split}, {listed.describe(i)} (earlier: {earlier})",
                    "The lists are of different versions, or their labels are numbered differently",
                )
    problems.raise_if_any()
    return tuple(folder_of.get(label, str(label)) for label in range(classes))
