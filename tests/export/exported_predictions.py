"""Comparison of the predictions of exported models with those of the stages."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch

from mem.data.features.stored import open_split
from mem.export.exported_model import ExportedModel, export_head, open_model
from mem.export.served import ServedModel
from mem.heads.build import load_head
from mem.metrics.predictions import read_predictions
from tests.export.conftest import FinishedStudy

_IMAGES = 20


def assert_predicts_as_evaluated(
    finished: FinishedStudy, variant: str, model: ExportedModel, *, atol: float = 1e-5, rtol: float = 1e-4
) -> None:
    """Check that a model predicts for test images what the evaluation of its head predicted.

    The probabilities are compared with those of the head on the stored features, which must have no tokens.
    """
    head, split = load_head(finished.run("train_head", variant)), open_split(finished.run("features"), "test")
    with torch.no_grad():
        expected = head(split.inputs(0, np.arange(_IMAGES), tokens=False)).softmax(dim=1).numpy()
    table = ServedModel(model).predict(pd.DataFrame({"image": finished.test_images(_IMAGES)}))
    columns = [f"probability.{name}" for name in model.classes]
    np.testing.assert_allclose(table[columns].to_numpy(), expected, atol=atol, rtol=rtol)
    _, saved = read_predictions(finished.run("evaluate", variant) / "predictions.parquet")
    assert table["class"].tolist() == [model.classes[c] for c in saved["test"].predictions[:_IMAGES]]


def assert_exports_predict_as_evaluated(
    finished: FinishedStudy, variant: str, out: Path, *, atol: float = 1e-5, rtol: float = 1e-4
) -> list[ExportedModel]:
    """Check what a head predicts if it is exported to `out`, and if it is opened directly.

    Returns:
        The exported model, and the opened one.
    """
    folder = finished.run("train_head", variant)
    models = [export_head(folder, out), open_model(folder)]
    for model in models:
        assert_predicts_as_evaluated(finished, variant, model, atol=atol, rtol=rtol)
    return models
