"""Reader for iNaturalist 2018, which reads lists or the official JSON files.

Labels are category IDs. The official validation split is used as the test split.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mem.config import INaturalist2018
from mem.data.datasets.base import ImageSet, empty_split
from mem.data.datasets.coco import read_coco
from mem.data.datasets.index_files import read_list, require_distinct_names
from mem.data.datasets.labels import count_classes, numeric_labels
from mem.data.datasets.problems import Problems
from mem.data.datasets.published_lists import sort_by_name
from mem.data.datasets.reference_counts import INATURALIST_2018
from mem.errors import UserError

_PATH = re.compile(r"(?:.*/)?([^/]+/(\d+)/[^/]+)")
_EXPECTED = "train_val2018/Plantae/7291/NAME.jpg, with the category id as folder"


@dataclass(frozen=True)
class _IndexFile:
    """Content of a list or JSON file."""

    paths: list[str]
    names: list[str]
    labels: np.ndarray
    classes: tuple[str, ...] | None
    """Category names; None for a list."""


def read_inaturalist(settings: INaturalist2018) -> ImageSet:
    """Read train and test, each from a list or a JSON file. Images are sorted by name.

    torchvision's `ImageFolder` sorts the category folders as strings, so its labels are not category IDs. Lists with
    such labels are rejected, because heads trained on them are not comparable with heads that use category IDs.

    Raises:
        UserError: A file is missing or invalid, or a label differs from the category ID in the path.
    """
    files = settings.list_files()
    parts = {split: _read(path) for split, path in files.items()}
    class_names = [part.classes for part in parts.values() if part.classes is not None]
    if len(set(class_names)) > 1:
        raise UserError(
            f"{files['train']} and {files['test']} have different categories. Use train2018.json and val2018.json."
        )
    labels = {split: part.labels for split, part in parts.items()}
    origin = f"{files['train']} and {files['test']}"
    count = count_classes(labels, len(class_names[0]) if class_names else None, origin)
    classes = class_names[0] if class_names else tuple(map(str, range(count)))
    train, test = (
        sort_by_name(settings.root, parts[split].paths, parts[split].names, labels[split])
        for split in ("train", "test")
    )
    return ImageSet(classes, train, empty_split(), test, INATURALIST_2018)


def _read(path: Path) -> _IndexFile:
    if path.suffix == ".json":
        found = read_coco(path)
        paths, labels, positions, classes = found.paths, found.categories, found.images, found.classes
        require_distinct_names(classes, str(path))
        unit = "image"
    else:
        rows = read_list(path)
        paths, labels, positions, classes = rows.paths, numeric_labels(rows), rows.lines, None
        unit = "line"
    problems = Problems(str(path))
    names: list[str] = []
    for position, image, label in zip(positions, paths, labels.tolist(), strict=True):
        match = _PATH.fullmatch(image)
        if match is None:
            example = f"{unit} {position}: {image}"
            problems.add("paths that do not belong to iNaturalist 2018", example, f"Expected {_EXPECTED}")
        elif int(match[2]) != label:
            problems.add(
                "labels that are not the category id of their folder",
                f"{unit} {position}: {image} {label}",
                "Sorting folders as strings (as ImageFolder does) gives such labels. Use a list with category ids",
            )
        else:
            names.append(match[1])
    problems.raise_if_any()
    return _IndexFile(paths, names, labels, classes)
