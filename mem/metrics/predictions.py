"""Files with a head's per-image predictions, from which every score can be recomputed without the model."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float32, Int64

from mem import files
from mem.errors import UserError

PREDICTIONS_FILE = "predictions.parquet"
TOP_CLASSES = 5
"""Number of most probable classes to save per image."""
_ABOUT = b"mem"
_VERSION = 1


@dataclass(frozen=True)
class Predictions:
    """A head's predictions on one split."""

    labels: Int64[np.ndarray, " images"]
    predictions: Int64[np.ndarray, " images"]
    top: Int64[np.ndarray, "images top"]
    """The most probable classes, in descending order."""
    top_probabilities: Float32[np.ndarray, "images top"]
    best_in_shot: Int64[np.ndarray, "images shots"]
    """The best class within each shot group, for the oracle; -1 for a shot group without classes."""
    weights: Float32[np.ndarray, "images groups"] | None = None
    """MEM's group weights w (equation 7). With `weight: mixture`, the log-probabilities of the groups."""
    norms: Float32[np.ndarray, "images groups"] | None = None
    """Norms of MEM's sub-networks."""
    names: Sequence[str] | None = None
    """Names of the images, if known."""
    experts_used: Int64[np.ndarray, " images"] | Float32[np.ndarray, " images"] | None = None
    """Number of experts that RIDE's router uses for each image. With crops, it is a mean over them."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def correct(self) -> np.ndarray:
        """Whether each prediction is correct."""
        return self.predictions == self.labels


@dataclass(frozen=True)
class PredictionMetadata:
    """Metadata of a predictions file."""

    dataset: str
    variant: str
    head: str
    """Run key of the head."""
    thresholds: str
    shot_of_class: tuple[int, ...]
    group_of_class: tuple[int, ...] | None = None
    """MEM's partition, which defines the groups of norms and weights."""
    version: int = _VERSION
    crops: str = ""
    """Crops whose logits are averaged, for example `five crops at 248`; empty for one central crop."""


def write_predictions(path: Path, about: PredictionMetadata, splits: Mapping[str, Predictions]) -> None:
    """Write the predictions for all splits to one Parquet file with one row per image."""
    table = pa.concat_tables([_table(name, split) for name, split in splits.items()])
    # Without crops, the content is that of earlier versions.
    content = {name: value for name, value in vars(about).items() if name != "crops" or value}
    table = table.replace_schema_metadata({_ABOUT: json.dumps(content).encode()})
    with files.atomic(path, "wb") as file:
        # Probabilities rarely repeat, so a dictionary would be larger than the values.
        pq.write_table(table, file, compression="zstd", use_dictionary=["split", "label", "prediction"])  # type: ignore[arg-type]


def read_predictions(path: Path) -> tuple[PredictionMetadata, dict[str, Predictions]]:
    """Read a file that was written by `write_predictions`.

    Raises:
        UserError: The file is missing or damaged, or is not a predictions file.
    """
    with _readable(path):
        table = pq.read_table(path)
        about = _about(json.loads(table.schema.metadata[_ABOUT]))
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
            experts_used=_numbers_of_experts(part["experts_used"]) if "experts_used" in part.column_names else None,
        )
    return about, splits


def read_metadata(path: Path) -> PredictionMetadata:
    """Read the metadata of a predictions file, without the predictions.

    Raises:
        UserError: As in `read_predictions`.
    """
    with _readable(path):
        return _about(json.loads(pq.read_schema(path).metadata[_ABOUT]))


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Convert errors while a predictions file is read."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path}: file not found. Run `mem evaluate` to write it.") from None
    except (pa.ArrowException, KeyError, TypeError, ValueError, OSError) as error:
        raise UserError(
            f"{path}: not a predictions file of `mem evaluate`, or damaged: {error}. Run `mem evaluate` again."
        ) from None


def require_same_images(first: Predictions, second: Predictions, names: tuple[object, object]) -> None:
    """Check that two sets of predictions are for the same images.

    Raises:
        UserError: The numbers, labels or names of the images differ.
    """
    if len(first) != len(second):
        raise UserError(
            f"{names[0]} has predictions for {len(first):,} images and {names[1]} for {len(second):,}. Methods can "
            "only be compared on the same dataset and class order."
        )
    differing = int((first.labels != second.labels).sum())
    if differing:
        raise UserError(
            f"{names[0]} and {names[1]} have different labels for {differing:,} of {len(first):,} images. Methods can "
            "only be compared on the same dataset and class order."
        )
    if first.names is not None and second.names is not None and list(first.names) != list(second.names):
        raise UserError(
            f"{names[0]} and {names[1]} contain predictions for different images, although the labels agree. "
            "Methods can only be compared on the same images."
        )


def _table(name: str, split: Predictions) -> pa.Table:
    images = len(split)
    names = [None] * images if split.names is None else [_printable(name) for name in split.names]
    columns: dict[str, Any] = {
        "split": pa.DictionaryArray.from_arrays(_column(np.zeros(images, np.int32)), _text_column([name])),
        "image": _column(np.arange(images, dtype=np.int32)),
        "name": _text_column(names),
        "label": _column(split.labels.astype(np.int32)),
        "prediction": _column(split.predictions.astype(np.int32)),
        "top": _list_column(split.top.astype(np.int32)),
        "top_probability": _list_column(split.top_probabilities.astype(np.float32)),
        "best_in_shot": _list_column(split.best_in_shot.astype(np.int32)),
    }
    for column, values in (("weight", split.weights), ("norm", split.norms)):
        if values is not None:
            columns[column] = _list_column(values.astype(np.float32))
    if split.experts_used is not None:
        whole = np.issubdtype(split.experts_used.dtype, np.integer)
        columns["experts_used"] = _column(split.experts_used.astype(np.int32) if whole else split.experts_used)
    return pa.table(columns)


def _about(content: dict[str, Any]) -> PredictionMetadata:
    listed = {name: tuple(content[name]) for name in ("shot_of_class", "group_of_class") if content[name] is not None}
    return PredictionMetadata(**{**content, **listed})


def _printable(name: str) -> str:
    """Escape the bytes of an image name that are not valid UTF-8."""
    return name.encode("utf-8", "backslashreplace").decode()


def _list_column(values: np.ndarray) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(_column(values.ravel()), values.shape[1])


def _column(values: np.ndarray) -> pa.Array:
    """Return a one-dimensional array as a column. `pa.array` would do the same, but it imports pandas."""
    values = np.ascontiguousarray(values)
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), [None, pa.py_buffer(values)])


def _text_column(texts: Sequence[str | None]) -> pa.Array:
    """Return texts as a column, in which None is a missing value. `pa.array` would do the same, but imports pandas."""
    encoded = [b"" if text is None else text.encode() for text in texts]
    offsets = np.cumsum([0, *map(len, encoded)], dtype=np.int32)
    present = np.packbits([text is not None for text in texts], bitorder="little")
    return pa.Array.from_buffers(
        pa.string(), len(encoded), [pa.py_buffer(present), pa.py_buffer(offsets), pa.py_buffer(b"".join(encoded))]
    )


def _numbers_of_experts(column: pa.ChunkedArray) -> np.ndarray:
    """Return whole numbers, or float32 if the predictions are means over crops."""
    return _numbers(column, np.int64 if pa.types.is_integer(column.type) else np.float32)


def _numbers(column: pa.ChunkedArray, kind: Any) -> np.ndarray:
    return column.to_numpy().astype(kind)


def _lists(column: pa.ChunkedArray, kind: Any) -> np.ndarray:
    return column.combine_chunks().flatten().to_numpy().reshape(len(column), -1).astype(kind)
