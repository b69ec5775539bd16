"""Files with the names of classes: one name per line, or a name for each class id.

Files that map ids to names are JSON or CSV files, the category files of iNaturalist and Places365, and lists of WordNet
ids with names.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mem.config import INaturalist2018
from mem.config.custom_sources import CustomImages
from mem.config.data import ImageData
from mem.data.datasets.base import ImageSet
from mem.data.datasets.index_files import read_class_names, read_text, require_distinct_names
from mem.data.datasets.problems import Problems
from mem.errors import UserError

_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_ID_COLUMNS, _NAME_COLUMN = ("id", "label"), "name"
_WORDNET = re.compile(r"(n\d{8})[ \t,]+(\S.*)")
_PLACES = re.compile(r"/[a-z]/(\S+) (\d+)")
_EXPECTED = (
    "Expected one name per line, a JSON file with a name for each class id, the categories of iNaturalist, or a CSV "
    "file with the columns id and name"
)


def with_class_names(images: ImageSet, path: Path) -> ImageSet:
    """Return a dataset whose classes have the names in a file.

    Args:
        images: The dataset, whose classes have ids, for example WordNet ids or numbers.
        path: File with one name per class in label order, or with a name for each class id or label.

    Raises:
        UserError: The file is missing or invalid, has no name for a class, or names are not unique.
    """
    found = _read_mapping(path)
    names = read_class_names(path) if found is None else _names_by_id(found, images.classes, path)
    if len(names) != len(images.classes):
        raise UserError(
            f"{path}: has {len(names)} class names, but the dataset has {len(images.classes)} classes. Provide one "
            "name per class, in label order, or a name for each class id."
        )
    return dataclasses.replace(images, classes=names)


def renamed(images: ImageSet, settings: ImageData) -> ImageSet:
    """Return a dataset with the class names of `dataset.class_names`, unless they are the ids that it was read with.

    Raises:
        UserError: As in `with_class_names`.
    """
    if settings.class_names is None or given_classes(settings) is not None:
        return images
    if isinstance(settings, INaturalist2018):
        # Labels are category ids. Some official annotations have other numbers as names.
        images = dataclasses.replace(images, classes=tuple(map(str, range(len(images.classes)))))
    return with_class_names(images, _file(settings.class_names))


def given_classes(settings: ImageData) -> tuple[str, ...] | None:
    """Return the classes of a custom dataset in the order of its file of class names, or None without such a file.

    Raises:
        UserError: The file is missing or empty, or names are not unique.
    """
    if settings.class_names is None or not isinstance(settings, CustomImages):
        return None
    path = _file(settings.class_names)
    return None if _maps_ids(path) else read_class_names(path)


def _file(setting: str) -> Path:
    return Path(setting).expanduser()


def _maps_ids(path: Path) -> bool:
    """Return whether a file of a custom dataset has a name for each class id, as JSON or as CSV with a header.

    Other files contain one class name per line. The names are then also the class ids of the dataset.

    Raises:
        UserError: The file is missing or cannot be read.
    """
    return path.suffix == ".json" or (path.suffix in _DELIMITERS and _id_column(path) is not None)


def _names_by_id(found: Mapping[str, str], classes: Sequence[str], path: Path) -> tuple[str, ...]:
    """Return the name of each class, found by its id or, if no id is in the file, by its label.

    Raises:
        UserError: A class has no name, or names are not unique.
    """
    labels = [str(label) for label in range(len(classes))]
    keys = classes if any(name in found for name in classes) else labels
    problems = Problems(str(path))
    for label, (key, name) in enumerate(zip(keys, classes, strict=True)):
        if key not in found:
            problems.add("classes without a name", f"{name} (class {label})", "Add the names to the file")
        elif not found[key].strip():
            problems.add("empty class names", f"{name} (class {label})", "Add the names to the file")
    problems.raise_if_any()
    names = tuple(found[key].strip() for key in keys)
    require_distinct_names(names, str(path))
    return names


def _read_mapping(path: Path) -> dict[str, str] | None:
    """Return the name of each id in a file, or None if the file contains only names."""
    if path.suffix == ".json":
        return _of_json(path)
    if path.suffix in _DELIMITERS and (column := _id_column(path)) is not None:
        rows = csv.DictReader(io.StringIO(read_text(path)), delimiter=_DELIMITERS[path.suffix])
        return _as_mapping(((row[column], row[_NAME_COLUMN]) for row in rows), path)
    lines = [line.strip() for line in read_text(path).split("\n") if line.strip()]
    if lines and all(matches := [_WORDNET.fullmatch(line) for line in lines]):
        return _as_mapping(((match[1], match[2]) for match in matches if match), path)
    if lines and all(matches := [_PLACES.fullmatch(line) for line in lines]):
        return _as_mapping(((match[2], match[1].replace("/", "-")) for match in matches if match), path)
    return None


def _id_column(path: Path) -> str | None:
    """Return the name of the column with the ids in a CSV file, or None if it has no header with ids and names."""
    first = read_text(path).partition("\n")[0]
    header = next(csv.reader([first], delimiter=_DELIMITERS[path.suffix]), [])
    return next((name for name in _ID_COLUMNS if name in header), None) if _NAME_COLUMN in header else None


def _of_json(path: Path) -> dict[str, str]:
    """Return the name of each id in a JSON file.

    The file is an object, a list of categories with `id` and `name`, or annotations with such a list as `categories`.
    In an object, a value is a name, or a pair of an id and a name, as in torchvision's index of ImageNet.

    Raises:
        UserError: The file is missing, is not JSON, or has another form.
    """
    try:
        content: Any = json.loads(read_text(path))
    except ValueError as error:
        raise UserError(f"{path}: cannot be read as JSON: {error}") from None
    if isinstance(content, Mapping) and isinstance(content.get("categories"), list):
        content = content["categories"]
    pairs: list[tuple[Any, Any]] = []
    if isinstance(content, Mapping):
        pairs = [tuple(value) if _is_pair(value) else (key, value) for key, value in content.items()]  # type: ignore[misc]
    elif isinstance(content, list) and all(isinstance(each, Mapping) for each in content):
        pairs = [(each.get("id"), each.get("name")) for each in content]
    if not pairs or not all(isinstance(key, str | int) and isinstance(name, str) for key, name in pairs):
        raise UserError(f"{path}: contains no class names. {_EXPECTED}.")
    return _as_mapping(((str(key), name) for key, name in pairs), path)


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2


def _as_mapping(pairs: Iterable[tuple[Any, Any]], path: Path) -> dict[str, str]:
    """Return pairs of ids and names as a dictionary.

    Raises:
        UserError: An id occurs several times, or a row is incomplete.
    """
    names: dict[str, str] = {}
    problems = Problems(str(path))
    for key, name in pairs:
        if key is None or name is None:
            problems.add("rows without an id or a name", f"{key}: {name}", _EXPECTED)
        elif key in names:
            problems.add("ids with several names", f"{key}: {names[key]} and {name}")
        else:
            names[key] = name
    problems.raise_if_any()
    return names
