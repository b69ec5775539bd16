"""Models of evaluations that average over several crops predict what the evaluation predicted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mem.cli.main import main
from mem.config.load import load_study
from mem.export.best_head import best_head
from mem.export.exported_model import ExportedModel, export_head, open_model
from mem.export.served import ServedModel
from mem.metrics.predictions import read_predictions
from tests.export.conftest import CHANGES, HEADS, FinishedStudy
from tests.stages.running import MINI_VALUES, run_study

pytestmark = pytest.mark.stage
CROPS = {"number": 5, "resize": 11}
IMAGES = 20


@pytest.fixture(scope="module")
def cropped(tmp_path_factory) -> FinishedStudy:
    """The study with a ViT, evaluated with five crops."""
    folder = tmp_path_factory.mktemp("crops")
    heads = {"heads": {name: HEADS[name] for name in ("ce", "crt", "mem")}, "evaluate": {"crops": CROPS}}
    stages = ("convert", "finetune", "features", "train_head", "evaluate")
    return FinishedStudy(folder, run_study(folder, MINI_VALUES | CHANGES | heads, stages))


@pytest.mark.parametrize("variant", ["crt", "mem"])
def test_an_exported_evaluation_predicts_what_it_predicted(cropped, variant, tmp_path):
    run = cropped.run("evaluate", variant)
    saved = read_predictions(run / "predictions.parquet")[1]["test"]

    def probabilities(model: ExportedModel) -> np.ndarray:
        table = ServedModel(model).predict(pd.DataFrame({"image": cropped.test_images(IMAGES)}))
        assert table["class"].tolist() == [model.classes[c] for c in saved.predictions[:IMAGES]]
        if variant == "mem":
            groups = table[[f"group_norm.{name}" for name in model.groups]].to_numpy()
            np.testing.assert_allclose(groups, saved.norms[:IMAGES], rtol=1e-4)
        return table["probability"].to_numpy()

    exported = export_head(run, tmp_path / "out")
    assert exported.about["crops"] == CROPS
    for model in (exported, open_model(run)):
        np.testing.assert_allclose(probabilities(model), saved.top_probabilities[:IMAGES, 0], atol=1e-5)
    head = open_model(cropped.run("train_head", variant))
    assert "crops" not in head.about
    one_crop = ServedModel(head).predict(pd.DataFrame({"image": cropped.test_images(IMAGES)}))["probability"]
    assert np.abs(one_crop - saved.top_probabilities[:IMAGES, 0]).max() > 1e-3


def test_timms_form_of_an_evaluation_with_crops_is_refused(cropped, tmp_path, capsys):
    arguments = ["export", str(cropped.run("evaluate", "crt")), "--out", str(tmp_path / "out"), "--format", "timm"]
    assert main(arguments) == 2
    assert "averages logits over five crops at 11, which timm's form cannot express" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_mem_predict_takes_an_evaluation(cropped, tmp_path, capsys):
    import cv2

    for i, image in enumerate(cropped.test_images(3)):
        cv2.imwrite(str(tmp_path / f"{i}.png"), np.ascontiguousarray(image[:, :, ::-1]))
    run = cropped.run("evaluate", "crt")
    assert main(["predict", str(tmp_path), "--model", str(run), "--format", "json"]) == 0
    found = [entry["probability"] for entry in json.loads(capsys.readouterr().out)]
    saved = read_predictions(run / "predictions.parquet")[1]["test"]
    np.testing.assert_allclose(found, saved.top_probabilities[:3, 0], atol=1e-5)


def test_the_registered_model_is_that_of_the_evaluation(cropped):
    selected = best_head(load_study([cropped.folder / "study.yaml"]), cropped.folder, "crt")
    assert selected.evaluation.inputs["head"] is selected.run
    assert Path(cropped.folder, selected.evaluation.folder) == cropped.run("evaluate", "crt")
