"""Annotations in COCO's JSON form, as iNaturalist's competitions publish them: one category an image."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from mem.data.datasets.index_files import normalised_paths, read_bytes
from mem.data.datasets.problems import Problems
from mem.errors import UserError

_KEPT = {"images", "annotations", "categories", "id", "file_name", "image_id", "category_id", "name"}
"""Keys that are looked at. All others are dropped while the file is parsed, so that a large one fits in memory."""


@dataclass(frozen=True)
class Annotated:
    """Images and their categories."""

    images: list[int]
    """Id of each image."""
    paths: list[str]
    categories: Int64[np.ndarray, " images"]
    """Category id of each image."""
    classes: tuple[str, ...]
    """Name of each category, by id."""


def read_coco(path: Path) -> Annotated:
    """Read an annotation file.

    Raises:
        UserError: The file is missing, truncated or something else, or images and annotations do not belong together.
    """
    content = _parse(path)
    images = {image["id"]: image["file_name"] for image in _entries(path, content, "images", "id", "file_name")}
    annotations = _entries(path, content, "annotations", "image_id", "category_id")
    classes = _categories(path, _entries(path, content, "categories", "id", "name"))
    faults = Problems(str(path))
    category: dict[int, int] = {}
    for annotation in annotations:
        image, label = annotation["image_id"], annotation["category_id"]
        if image not in images:
            faults.add("annotations of images that are not listed", f"image {image}")
        elif not isinstance(label, int) or not 0 <= label < len(classes):
            faults.add("annotations with a category that is not listed", f"image {image}: {label}")
        elif category.setdefault(image, label) != label:
            faults.add("images with two categories", f"image {image}: {category[image]} and {label}")
    unlabelled = [image for image in images if image not in category]
    if unlabelled and not faults:
        faults.add_all("images without an annotation", (f"image {i}" for i in unlabelled), len(unlabelled))
    if len(images) != len(content["images"]):
        faults.add("image ids that stand twice", f"{len(content['images'])} images, {len(images)} ids")
    numbers = list(images)
    paths = normalised_paths(list(images.values()), numbers, faults, "image")
    faults.raise_if_any()
    return Annotated(numbers, paths, np.asarray([category[i] for i in numbers], dtype=np.int64), classes)


def _parse(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(
            read_bytes(path).decode("utf-8-sig"),
            object_hook=lambda entry: {k: entry[k] for k in _KEPT & entry.keys()},
        )
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}: no whole JSON file ({error.msg} at line {error.lineno}, column {error.colno}). "
            "It may be half downloaded or half unpacked."
        ) from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: no JSON file: it is no UTF-8 text (byte {error.start})") from None
    except RecursionError:
        raise UserError(f"{path}: JSON of another kind: it is nested too deeply") from None
    if isinstance(content, dict) and "images" in content and "annotations" not in content:
        raise UserError(
            f"{path}: lists images without annotations, like the competition's test part, whose labels were not "
            "published. Use train2018.json for train and val2018.json for test."
        )
    found = content if isinstance(content, dict) else {}
    if missing := [key for key in ("images", "annotations", "categories") if key not in found]:
        raise UserError(
            f"{path}: JSON of another kind: it has no {', '.join(missing)}. Expected COCO's form, as train2018.json "
            "has."
        )
    return found


def _entries(path: Path, content: dict[str, Any], key: str, *fields: str) -> list[dict[str, Any]]:
    """The list under `key`; each entry has the `fields`, ids are whole numbers and all else text."""
    entries = content[key]
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{path}: `{key}` is no list, or an empty one")
    faults = Problems(str(path))
    for i, entry in enumerate(entries):
        for field in fields:
            kind = int if field.endswith("id") else str
            if not isinstance(entry, dict) or type(entry.get(field)) is not kind or entry[field] == "":
                faults.add(f"entries of `{key}` without a valid `{field}`", f"number {i}")
    faults.raise_if_any()
    return entries


def _categories(path: Path, entries: list[dict[str, Any]]) -> tuple[str, ...]:
    """Names by id, which must be 0 to K - 1; they may stand in any order."""
    names = {entry["id"]: entry["name"] for entry in entries}
    absent = [k for k in range(len(entries)) if k not in names]
    if absent:
        faults = Problems(str(path))
        advice = f"{len(entries)} categories must have the ids 0 to {len(entries) - 1}, each once"
        faults.add_all("category ids that are missing", map(str, absent), len(absent), advice)
        faults.raise_if_any()
    return tuple(names[k] for k in range(len(entries)))
