"""Tables with the predictions of all heads side by side."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from mem.errors import UserError
from mem.metrics.predictions import PREDICTIONS_FILE, PredictionMetadata, Predictions, write_predictions
from mem.report.prediction_table import write_prediction_tables

LABELS = [0, 1, 299]


def evaluation(folder: Path, predicted: list[int], labels: list[int] = LABELS, names: list[str] | None = None) -> Path:
    """Write the predictions of an evaluation, and return its folder."""
    classes = np.asarray(predicted)
    test = Predictions(
        labels=np.asarray(labels),
        predictions=classes,
        top=classes[:, None],
        top_probabilities=np.ones((len(classes), 1), np.float32),
        best_in_shot=np.stack([classes] * 3, axis=1),
        names=names,
    )
    folder.mkdir()
    write_predictions(folder / PREDICTIONS_FILE, PredictionMetadata("d", "v", "key", "t", (0, 2) * 150), {"test": test})
    return folder


def test_a_table_has_a_column_for_each_head_and_a_file_for_each_class_order_and_seed(tmp_path):
    names = ["a.png", "b.png", "c.png"]
    evaluations = {
        ("ce", 1, 0): evaluation(tmp_path / "ce", [0, 0, 0], names=names),
        ("mem", 1, 0): evaluation(tmp_path / "mem", [0, 1, 299], names=names),
        ("ce", 2, 0): evaluation(tmp_path / "other", [5, 6], labels=[5, 7]),
    }
    first, second = write_prediction_tables(tmp_path / "predictions", evaluations)
    assert [first.name, second.name] == ["order1-seed0.parquet", "order2-seed0.parquet"]
    assert pq.read_table(first).to_pydict() == {"name": names, "label": LABELS, "ce": [0, 0, 0], "mem": [0, 1, 299]}
    assert json.loads(pq.read_schema(first).metadata[b"shot_of_class"]) == [0, 2] * 150
    assert pq.read_table(second).to_pydict() == {"label": [5, 7], "ce": [5, 6]}


def test_heads_named_like_other_columns_do_not_replace_them(tmp_path):
    evaluations = {(name, 0, 0): evaluation(tmp_path / name, [0, 0, 0]) for name in ("label", "name")}
    (path,) = write_prediction_tables(tmp_path / "predictions", evaluations)
    assert pq.read_table(path).to_pydict() == {"label": LABELS, "label (head)": [0, 0, 0], "name (head)": [0, 0, 0]}


def test_predictions_for_other_images_are_refused(tmp_path):
    evaluations = {
        ("ce", 0, 0): evaluation(tmp_path / "ce", [0, 0, 0]),
        ("mem", 0, 0): evaluation(tmp_path / "mem", [0, 0, 0], labels=[0, 0, 0]),
    }
    with pytest.raises(UserError, match="different labels for 2 of 3 images"):
        write_prediction_tables(tmp_path / "predictions", evaluations)
