"""Reader for annotations in COCO's JSON format with one category per image, as published by iNaturalist."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from mem.data.datasets.index_files import normalise_paths, read_bytes
from mem.data.datasets.problems import Problems
from mem.errors import UserError

_KEPT = {"images", "annotations", "categories", "id", "file_name", "image_id", "category_id", "name"}
"""Keys to keep. All other keys are dropped during parsing, so that large files fit in memory."""


@dataclass(frozen=True)
class Annotations:
    """Images and their categories."""

    images: list[int]
    """ID of each image."""
    paths: list[str]
    """Relative, normalised path of each image."""
    categories: Int64[np.ndarray, " images"]
    """Category ID of each image."""
    classes: tuple[str, ...]
    """Category names by category ID."""


def read_coco(path: Path) -> Annotations:
    """Read an annotation file.

    Raises:
        UserError: The file is missing, truncated or in a different format, or images and annotations are inconsistent.
    """
    content = _parse(path)
    images = {image["id"]: image["file_name"] for image in _entries(path, content, "images", "id", "file_name")}
    annotations = _entries(path, content, "annotations", "image_id", "category_id")
    classes = _category_names(path, _entries(path, content, "categories", "id", "name"))
    problems = Problems(str(path))
    category_of: dict[int, int] = {}
    for annotation in annotations:
        image, category = annotation["image_id"], annotation["category_id"]
        if image not in images:
            problems.add("annotations of unlisted images", f"image {image}")
        elif not isinstance(category, int) or not 0 <= category < len(classes):
            problems.add("annotations with an unlisted category", f"image {image}: {category}")
        elif category_of.setdefault(image, category) != category:
            problems.add("images with two categories", f"image {image}: {category_of[image]} and {category}")
    unlabelled = [image for image in images if image not in category_of]
    if unlabelled and not problems:
        problems.add_many("images without an annotation", (f"image {i}" for i in unlabelled), len(unlabelled))
    if len(images) != len(content["images"]):
        duplicates = len(content["images"]) - len(images)
        example = f"{len(content['images'])} images have {len(images)} distinct ids"
        problems.add_many("duplicate image ids", [example], duplicates)
    ids = list(images)
    paths = normalise_paths(list(images.values()), ids, problems, "image")
    problems.raise_if_any()
    return Annotations(ids, paths, np.asarray([category_of[i] for i in ids], dtype=np.int64), classes)


def _parse(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(
            read_bytes(path).decode("utf-8-sig"),
            object_hook=lambda entry: {k: entry[k] for k in _KEPT & entry.keys()},
        )
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}: not valid JSON ({error.msg} at line {error.lineno}, column {error.colno}). The file may be "
            "truncated. Download or unpack it again."
        ) from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a JSON file: byte {error.start} is not valid UTF-8") from None
    except RecursionError:
        raise UserError(f"{path}: not in COCO's format: the JSON is nested too deeply") from None
    if isinstance(content, dict) and "images" in content and "annotations" not in content:
        raise UserError(
            f"{path}: lists images without annotations, like the competition's test split, whose labels are not "
            "public. Use train2018.json for train and val2018.json for test."
        )
    found = content if isinstance(content, dict) else {}
    if missing := [key for key in ("images", "annotations", "categories") if key not in found]:
        raise UserError(
            f"{path}: not in COCO's format; missing keys: {', '.join(missing)}. Expected a file such as train2018.json."
        )
    return found


def _entries(path: Path, content: dict[str, Any], key: str, *fields: str) -> list[dict[str, Any]]:
    """Return the list under `key`. Check that IDs are integers and that other `fields` are text."""
    entries = content[key]
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{path}: `{key}` must be a list with at least one entry")
    problems = Problems(str(path))
    for i, entry in enumerate(entries):
        for field in fields:
            kind = int if field.endswith("id") else str
            if not isinstance(entry, dict) or type(entry.get(field)) is not kind or entry[field] == "":
                problems.add(f"entries of `{key}` without a valid `{field}`", f"entry {i}")
    problems.raise_if_any()
    return entries


def _category_names(path: Path, entries: list[dict[str, Any]]) -> tuple[str, ...]:
    """Return category names by ID. IDs must be 0 to K - 1, but entries may be in any order."""
    names = {entry["id"]: entry["name"] for entry in entries}
    absent = [k for k in range(len(entries)) if k not in names]
    if absent:
        problems = Problems(str(path))
        advice = f"The {len(entries)} categories must have the ids 0 to {len(entries) - 1}, each once"
        problems.add_many("missing category ids", map(str, absent), len(absent), advice)
        problems.raise_if_any()
    return tuple(names[k] for k in range(len(entries)))
