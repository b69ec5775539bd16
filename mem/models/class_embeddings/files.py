"""Files with class embeddings: `.npy` arrays in class order, and `.safetensors` files with class names."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mem import files
from mem.errors import UserError, first_of
from mem.models.class_embeddings.names import names_in_words
from mem.models.class_embeddings.vectors import ClassVectors, require_usable
from mem.models.weights.tensors import load_metadata, load_weights, require_no_pointer, save_weights

EMBEDDINGS, PROJECTION = "embeddings", "projection"
"""Names of the tensors."""
CLASSES, NAMES = "classes", "names"
"""Keys of the metadata: the dataset's classes, and the names with which their embeddings were computed."""


def write_embeddings(
    path: Path, vectors: ClassVectors, classes: Sequence[str], names: Sequence[str], about: Mapping[str, str]
) -> None:
    """Write class embeddings with their classes, names and projection.

    Args:
        path: The `.safetensors` file.
        vectors: The embeddings.
        classes: Classes of the dataset, in class order.
        names: Name of each class in the prompts.
        about: Further metadata, for example the text model.
    """
    tensors = {EMBEDDINGS: vectors.embeddings}
    if vectors.projection is not None:
        tensors[PROJECTION] = vectors.projection
    lists = {CLASSES: json.dumps(list(classes)), NAMES: json.dumps(list(names))}
    save_weights(path, tensors, {**about, **lists})


def read_embeddings(path: Path, classes: Sequence[str] | int) -> ClassVectors:
    """Read the embeddings of a dataset's classes.

    Rows are matched by the class names in the file, which are compared with the dataset's classes and, if they do not
    match, with the names of the classes in words. A file without names must contain one row per class.

    Args:
        path: The `.npy` or `.safetensors` file.
        classes: Classes of the dataset, in class order. Their number if their names are not known; the file must then
            contain one row per class. Its names are not checked.

    Raises:
        UserError: The file is missing or damaged, does not contain an embedding for each class, or contains several for
            one name.
    """
    tensors, lists = _read(path)
    if EMBEDDINGS not in tensors:
        raise UserError(
            f"{path}: has no tensor `{EMBEDDINGS}`; it contains {', '.join(tensors) or 'none'}. Expected class "
            f"embeddings of the shape (classes, width) under this name."
        )
    embeddings = require_usable(tensors[EMBEDDINGS], str(path))
    projection = tensors.get(PROJECTION)
    if projection is not None and (projection.ndim != 2 or projection.shape[0] != embeddings.shape[1]):
        raise UserError(
            f"{path}: the tensor `{PROJECTION}` has the shape {tuple(projection.shape)}; expected "
            f"({embeddings.shape[1]}, width of the features)."
        )
    rows = _rows(path, len(embeddings), lists, classes)
    return ClassVectors(embeddings[rows], str(path), None if projection is None else projection.float())


def _read(path: Path) -> tuple[dict[str, Tensor], list[list[str]]]:
    """Return the tensors of a file, and the lists of names that it contains."""
    if path.suffix == ".safetensors":
        return load_weights(path), _lists_of_names(path)
    try:
        require_no_pointer(path)
        values = files.read_array(path)
    except FileNotFoundError:
        raise UserError(f"{path}: file not found. Expected class embeddings; see `mem classes embed`.") from None
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path}: cannot be read as an array (.npy): {error}") from None
    if not np.issubdtype(values.dtype, np.floating):
        found = values.dtype
        raise UserError(f"{path}: expected one array of floating-point numbers, found {found}. Save it as float32.")
    with np.errstate(over="ignore"):  # `require_usable` reports infinite values
        return {EMBEDDINGS: torch.from_numpy(values.astype(np.float32))}, []


def _lists_of_names(path: Path) -> list[list[str]]:
    """Return the lists `classes` and `names` in the metadata of a file."""
    metadata, lists = load_metadata(path), list[list[str]]()
    for text in (metadata[key] for key in (CLASSES, NAMES) if key in metadata):
        try:
            found = json.loads(text)
        except (ValueError, TypeError):
            found = None
        if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
            raise UserError(f"{path}: expected JSON lists of class names in the metadata `{CLASSES}` and `{NAMES}`.")
        lists.append(found)
    return lists


def _rows(path: Path, available: int, lists: Sequence[Sequence[str]], classes: Sequence[str] | int) -> list[int]:
    """Return the row of each class."""
    if isinstance(classes, int) or not lists:
        expected = classes if isinstance(classes, int) else len(classes)
        if available != expected:
            raise UserError(
                f"{path}: has {available} class embeddings, but the dataset has {expected} classes, and there are no "
                "class names by which they could be matched. Provide one row per class, in class order."
            )
        return list(range(available))
    for found in lists:
        if len(found) != available:
            raise UserError(f"{path}: has {available} class embeddings, but {len(found)} class names.")
    shortest: list[str] | None = None
    names: Sequence[str] = classes
    with contextlib.suppress(UserError):  # numbers have no words, but the file can have the same numbers
        names = names_in_words(classes)
    for found in lists:
        for wanted in (classes, names):
            row_of = {name: row for row, name in enumerate(found)}
            missing = [name for name in wanted if name not in row_of]
            if not missing:
                _require_single(path, found, wanted)
                return [row_of[name] for name in wanted]
            if shortest is None or len(missing) < len(shortest):
                shortest = missing
    assert shortest is not None
    raise UserError(
        f"{path}: has no class embedding for {len(shortest)} of {len(classes)} classes: "
        f"{first_of([*map(repr, shortest)])}. The file has the names {first_of([*map(repr, lists[0])])}. Set "
        "dataset.class_names so that both agree, or compute the embeddings again (`mem classes embed`)."
    )


def _require_single(path: Path, found: Sequence[str], wanted: Sequence[str]) -> None:
    """Check that the file has one row for each wanted name.

    Raises:
        UserError: A name occurs several times.
    """
    needed, seen = set(wanted), set[str]()
    for name in found:
        if name in seen and name in needed:
            raise UserError(f"{path}: has several class embeddings with the name {name!r}. Use distinct names.")
        seen.add(name)
