"""Models exported or saved by an earlier version return the same predictions as before."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import mlflow.pyfunc
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from mem.cli.main import main
from mem.frozen import load_fitted
from mem.frozen.defaults import methods
from tests.compatibility.conftest import BEFORE
from tests.stages.running import find_run

IMAGES = sorted((BEFORE / "images").iterdir())
EXPECTED = json.loads((BEFORE / "expected" / "predictions.json").read_text())


def predictions(model: Path, capsys: pytest.CaptureFixture[str]) -> list[dict]:
    """Return the predictions that `mem predict` prints for the images."""
    assert main(["predict", *map(str, IMAGES), "--model", str(model), "--format", "json"]) == 0
    return json.loads(capsys.readouterr().out)


def check_predictions(found: list[dict]) -> None:
    """Check that the predictions equal those of the earlier version."""
    assert [Path(row["path"]).name for row in found] == [Path(row["path"]).name for row in EXPECTED]
    for row, expected in zip(found, EXPECTED, strict=True):
        assert row["class"] == expected["class"]
        assert row["probability"] == pytest.approx(expected["probability"], abs=1e-5)
        assert [top["class"] for top in row["top"]] == [top["class"] for top in expected["top"]]
        assert [top["probability"] for top in row["top"]] == pytest.approx(
            [top["probability"] for top in expected["top"]], abs=1e-5
        )
        for signal in ("group_weights", "group_norms"):
            assert row[signal] == pytest.approx(expected[signal], rel=1e-4)


@pytest.mark.parametrize("model", ["export", "export/mlflow"])
def test_an_earlier_export_predicts_the_same(model, capsys):
    check_predictions(predictions(BEFORE / model, capsys))


def test_the_run_folder_of_an_earlier_head_predicts_the_same(folder, runs, capsys):
    check_predictions(predictions(find_run(runs, "train_head", "mem").folder, capsys))


def test_an_earlier_head_is_exported_with_the_same_weights_and_description(folder, runs):
    run = find_run(runs, "train_head", "mem").folder
    assert main(["export", str(run), "--out", "out", "--no-program", "--no-mlflow"]) == 0
    earlier = BEFORE / "export"
    for name in ("head.json", "export.json"):
        assert json.loads((folder / "out" / name).read_text()) == json.loads((earlier / name).read_text())
    for name in ("head.safetensors", "backbone.safetensors"):
        assert (folder / "out" / name).read_bytes() == (earlier / name).read_bytes()


def test_mlflow_loads_an_earlier_model_and_its_predictions_are_the_same():
    model = mlflow.pyfunc.load_model(str(BEFORE / "export" / "mlflow"))
    images = [base64.b64encode(path.read_bytes()).decode() for path in IMAGES]
    found = model.predict(pd.DataFrame({"image": images}))
    expected = pd.read_json(
        io.StringIO((BEFORE / "expected" / "mlflow.json").read_text()), dtype={"class": str}, convert_axes=False
    )
    assert list(found.columns) == list(expected.columns)
    assert found["class"].tolist() == expected["class"].tolist()
    numbers = [name for name in found.columns if name != "class"]
    np.testing.assert_allclose(found[numbers].to_numpy(), expected[numbers].to_numpy(), rtol=1e-4, atol=1e-5)


SAVED = sorted(folder.name for folder in (BEFORE / "heads").iterdir())
NEWER = {
    "block_classifier",
    "ensemble",
    "finetuned",
    "group_constants",
    "logit_fusion",
    "mislas",
    "ride_router",
    "sade_aggregation",
    "zero_shot",
}
"""Methods that the earlier version did not have."""


def test_there_is_a_saved_head_of_every_earlier_method():
    assert set(SAVED) == methods().keys() - NEWER


@pytest.mark.parametrize("method", SAVED)
def test_a_saved_head_of_every_method_gives_the_same_logits(method):
    expected = load_file(BEFORE / "expected" / "heads.safetensors")
    head = load_fitted(BEFORE / "heads" / method)
    assert head.settings.method == method
    torch.testing.assert_close(head.logits(expected["features"]), expected[method], rtol=1e-4, atol=1e-5)
    if method == "mem":
        signals = head.groups(expected["features"])
        torch.testing.assert_close(signals.weights, expected["mem.weights"], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(signals.norms, expected["mem.norms"], rtol=1e-4, atol=1e-5)
