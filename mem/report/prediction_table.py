"""Predictions of all heads of a study side by side: one Parquet file per class order and seed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mem import files
from mem.metrics.predictions import PREDICTIONS_FILE, Predictions, read_predictions, require_same_images

_OWN_COLUMNS = ("name", "label")
"""Columns that are not predictions of a head."""


def write_prediction_tables(folder: Path, evaluations: Mapping[tuple[str, int, int], Path]) -> list[Path]:
    """Write `order<N>-seed<N>.parquet` for each class order and seed, and return the paths.

    A file has one row per test image, with the columns `label` and, if the images have names, `name`, and one column
    per head with the predicted class. The column of a head that is named `label` or `name` is `label (head)` or `name
    (head)`. The metadata `shot_of_class` is a JSON list with the shot group of each class (0 many, 1 medium, 2 few).
    Accuracies, intervals and tests can be recomputed from the file without the runs.

    Args:
        folder: Folder of the files.
        evaluations: Folder of the evaluate run of each (variant, class order, seed).

    Raises:
        UserError: Predictions are missing or damaged, or the heads of one class order and seed have different images.
    """
    by_repeat: dict[tuple[int, int], dict[str, Path]] = {}
    for (variant, order, seed), path in evaluations.items():
        by_repeat.setdefault((order, seed), {})[variant] = path
    written: list[Path] = []
    for (order, seed), paths in by_repeat.items():
        path = folder / f"order{order}-seed{seed}.parquet"
        with files.atomic(path, "wb") as file:
            pq.write_table(_table(paths), file, compression="zstd")  # type: ignore[arg-type]
        written.append(path)
    return written


def _table(paths: Mapping[str, Path]) -> pa.Table:
    """Return the labels and the predictions of each variant, as integers of the smallest sufficient size."""
    columns: dict[str, np.ndarray] = {}
    first: tuple[Path, Predictions] | None = None
    shots: tuple[int, ...] = ()
    for variant, path in paths.items():
        about, splits = read_predictions(path / PREDICTIONS_FILE)
        test, shots = splits["test"], about.shot_of_class
        first = first or (path, test)
        require_same_images(test, first[1], (path, first[0]))
        columns[f"{variant} (head)" if variant in _OWN_COLUMNS else variant] = _compact(test.predictions)
    assert first is not None
    names = {} if first[1].names is None else {"name": pa.array(first[1].names)}
    table = pa.table({**names, "label": _compact(first[1].labels), **columns})
    return table.replace_schema_metadata({"shot_of_class": json.dumps(shots)})


def _compact(classes: np.ndarray) -> np.ndarray:
    return classes.astype(np.min_scalar_type(int(classes.max(initial=0))))
