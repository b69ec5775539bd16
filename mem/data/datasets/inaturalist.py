"""iNaturalist 2018: lists or the official JSON. A label is a category id; the official val is the test split."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mem.config import INaturalist2018
from mem.data.datasets import labels
from mem.data.datasets.base import ImageSet, empty_split
from mem.data.datasets.coco import read_coco
from mem.data.datasets.index_files import distinct_names, read_list
from mem.data.datasets.problems import Problems
from mem.data.datasets.published_lists import in_name_order
from mem.data.datasets.reference_counts import INATURALIST_2018
from mem.errors import UserError

_PATH = re.compile(r"(?:.*/)?([^/]+/(\d+)/[^/]+)")
_EXPECTED = "train_val2018/Plantae/7291/NAME.jpg, with the category id as folder"


@dataclass(frozen=True)
class _Part:
    """One list or JSON file."""

    paths: list[str]
    names: list[str]
    numbers: np.ndarray
    classes: tuple[str, ...] | None


def read_inaturalist(settings: INaturalist2018) -> ImageSet:
    """Read both splits, each from a list or from a JSON file; images are put in the order of their names.

    An `ImageFolder` over the folders of categories sorts them as strings, so that its labels are not category ids:
    lists that were made with one are refused, for heads trained on them cannot be compared with others.

    Raises:
        UserError: A file is missing or wrong, or a label is not the category id that its path says.
    """
    files = settings.index_files()
    parts = {split: _read(path) for split, path in files.items()}
    named = [part.classes for part in parts.values() if part.classes is not None]
    if len(set(named)) > 1:
        raise UserError(f"{files['train']} and {files['test']} have different categories: they are of different sets.")
    numbers = {split: part.numbers for split, part in parts.items()}
    count = labels.check_classes(numbers, len(named[0]) if named else None, f"{files['train']} and {files['test']}")
    classes = named[0] if named else tuple(map(str, range(count)))
    train, test = (
        in_name_order(settings.root, parts[split].paths, parts[split].names, numbers[split])
        for split in ("train", "test")
    )
    return ImageSet(classes, train, empty_split(), test, INATURALIST_2018)


def _read(path: Path) -> _Part:
    if path.suffix == ".json":
        found = read_coco(path)
        paths, numbers, lines, classes = found.paths, found.categories, found.images, found.classes
        distinct_names(classes, str(path))
        unit = "image"
    else:
        rows = read_list(path)
        paths, numbers, lines, classes = rows.paths, labels.numeric_labels(rows), rows.lines, None
        unit = "line"
    faults = Problems(str(path))
    names: list[str] = []
    for number, image, label in zip(lines, paths, numbers.tolist(), strict=True):
        match = _PATH.fullmatch(image)
        if match is None:
            faults.add("paths that are none of iNaturalist 2018", f"{unit} {number}: {image}", f"Expected {_EXPECTED}")
        elif int(match[2]) != label:
            faults.add(
                "labels that are not the category id of their folder",
                f"{unit} {number}: {image} {label}",
                "Folders sorted as strings (as by ImageFolder) give such labels; use a list with category ids",
            )
        else:
            names.append(match[1])
    faults.raise_if_any()
    return _Part(paths, names, numbers, classes)
