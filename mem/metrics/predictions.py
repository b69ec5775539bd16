"""What a head answered, image by image, kept so that any figure can be made again without the model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float32, Int64

from mem import files
from mem.errors import UserError

FILE = "predictions.parquet"
TOP = 5
"""So many of the most probable classes are kept."""
_ABOUT = b"mem"
_VERSION = 1


@dataclass(frozen=True)
class Predictions:
    """The answers on one split."""

    labels: Int64[np.ndarray, " images"]
    predictions: Int64[np.ndarray, " images"]
    top: Int64[np.ndarray, "images top"]
    """The most probable classes, the first first."""
    top_probabilities: Float32[np.ndarray, "images top"]
    best_in_shot: Int64[np.ndarray, "images shots"]
    """The best class among those of each shot (-1: the shot has none), from which the oracle chooses."""
    weights: Float32[np.ndarray, "images groups"] | None = None
    """Group weights w of MEM (eq. 7)."""
    norms: Float32[np.ndarray, "images groups"] | None = None
    """Norms of MEM's sub-networks."""
    names: Sequence[str] | None = None
    """Name of each image, where it is known."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def right(self) -> np.ndarray:
        """Whether each prediction is right."""
        return self.predictions == self.labels


@dataclass(frozen=True)
class About:
    """What is true of all predictions of a file."""

    dataset: str
    variant: str
    head: str
    """Key of the head's run."""
    thresholds: str
    shot_of_class: tuple[int, ...]
    group_of_class: tuple[int, ...] | None = None
    """MEM's partition, to which norms and weights belong."""
    version: int = _VERSION


def write_predictions(path: Path, about: About, splits: Mapping[str, Predictions]) -> None:
    """Write the answers on all splits as one Parquet file, a row an image."""
    table = pa.concat_tables([_table(name, split) for name, split in splits.items()])
    table = table.replace_schema_metadata({_ABOUT: json.dumps(vars(about)).encode()})
    with files.atomic(path, "wb") as file:
        # Probabilities hardly repeat: a dictionary of them would be larger than they are.
        pq.write_table(table, file, compression="zstd", use_dictionary=["split", "label", "prediction"])  # type: ignore[arg-type]


def read_predictions(path: Path) -> tuple[About, dict[str, Predictions]]:
    """Read what `write_predictions` wrote.

    Raises:
        UserError: The file is missing, damaged, or was written by something else.
    """
    try:
        table = pq.read_table(path)
        about = _about(json.loads(table.schema.metadata[_ABOUT]))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file. `mem evaluate` writes it.") from None
    except (pa.ArrowException, KeyError, TypeError, ValueError, OSError) as error:
        raise UserError(f"{path}: no predictions of `mem evaluate`, or damaged: {error}. Run evaluate again.") from None
    split_of = np.asarray(table["split"].to_pylist())
    splits = {}
    for name in dict.fromkeys(split_of.tolist()):
        part = table.filter(pa.array(split_of == name))
        listed = part["name"].to_pylist()
        splits[name] = Predictions(
            labels=_numbers(part["label"], np.int64),
            predictions=_numbers(part["prediction"], np.int64),
            top=_lists(part["top"], np.int64),
            top_probabilities=_lists(part["top_probability"], np.float32),
            best_in_shot=_lists(part["best_in_shot"], np.int64),
            weights=_lists(part["weight"], np.float32) if "weight" in part.column_names else None,
            norms=_lists(part["norm"], np.float32) if "norm" in part.column_names else None,
            names=None if None in listed else listed,
        )
    return about, splits


def check_same_images(first: Predictions, second: Predictions, names: tuple[object, object]) -> None:
    """Two methods can be paired only where they answered for the same images.

    Raises:
        UserError: They did not: another number of images, other labels, or other names.
    """
    if len(first) != len(second):
        raise UserError(
            f"{names[0]} has predictions of {len(first):,} images and {names[1]} of {len(second):,}: they are of "
            "different data sets or class orders, and cannot be paired"
        )
    differing = int((first.labels != second.labels).sum())
    if differing:
        raise UserError(
            f"{names[0]} and {names[1]} have different labels for {differing:,} of {len(first):,} images: they are of "
            "different data sets or class orders, and cannot be paired"
        )
    if first.names is not None and second.names is not None and list(first.names) != list(second.names):
        raise UserError(f"{names[0]} and {names[1]} are of different images with equal labels, and cannot be paired")


def _table(name: str, split: Predictions) -> pa.Table:
    images = len(split)
    names = [None] * images if split.names is None else [_printable(name) for name in split.names]
    columns: dict[str, Any] = {
        "split": pa.array([name] * images, pa.string()).dictionary_encode(),
        "image": pa.array(np.arange(images, dtype=np.int32)),
        "name": pa.array(names, pa.string()),
        "label": pa.array(split.labels.astype(np.int32)),
        "prediction": pa.array(split.predictions.astype(np.int32)),
        "top": _list_column(split.top.astype(np.int32)),
        "top_probability": _list_column(split.top_probabilities.astype(np.float32)),
        "best_in_shot": _list_column(split.best_in_shot.astype(np.int32)),
    }
    for column, values in (("weight", split.weights), ("norm", split.norms)):
        if values is not None:
            columns[column] = _list_column(values.astype(np.float32))
    return pa.table(columns)


def _about(content: dict[str, Any]) -> About:
    listed = {name: tuple(content[name]) for name in ("shot_of_class", "group_of_class") if content[name] is not None}
    return About(**{**content, **listed})


def _printable(name: str) -> str:
    """Names of files that are no UTF-8 are kept as escapes."""
    return name.encode("utf-8", "backslashreplace").decode()


def _list_column(values: np.ndarray) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])


def _numbers(column: pa.ChunkedArray, kind: Any) -> np.ndarray:
    return column.to_numpy().astype(kind)


def _lists(column: pa.ChunkedArray, kind: Any) -> np.ndarray:
    return column.combine_chunks().flatten().to_numpy().reshape(len(column), -1).astype(kind)
