"""A finetuning with a cosine classifier, and heads on it: stages, export and prediction."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mem.heads.build import load_head
from mem.heads.cosine import CosineHead
from mem.models.cosine import CosineLinear
from mem.models.weights.tensors import load_weights
from tests.export.conftest import FinishedStudy
from tests.export.exported_predictions import assert_exports_predict_as_evaluated
from tests.stages.running import MINI_VALUES, run_study

pytestmark = pytest.mark.stage
IMAGES = 20
CRT = MINI_VALUES["heads"]["crt"]
VALUES = MINI_VALUES | {
    "study": "cosine",
    "pretrain": None,
    "finetune": MINI_VALUES["finetune"]
    | {"epochs": 2, "cosine_scale": 16, "objective": "balanced_softmax", "sampler": "class_balanced"},
    "heads": {
        "finetuned": {"method": "finetuned"},
        "crt": CRT,
        "cosine": {"method": "crt", "cosine_scale": 20, **CRT},
        "ncm": None,
    },
}
STAGES = ("convert", "finetune", "features", "train_head", "evaluate")


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> FinishedStudy:
    folder: Path = tmp_path_factory.mktemp("cosine")
    return FinishedStudy(folder, run_study(folder, VALUES, STAGES))


def test_the_finetuned_classifier_is_a_cosine_classifier(finished):
    weights = load_weights(finished.run("finetune") / "model.safetensors")
    stored = load_weights(finished.run("features") / "classifier.safetensors")
    assert "head.bias" not in weights
    assert float(stored["cosine_scale"]) == 16
    assert torch.equal(weights["head.weight"], stored["weight"])
    head = load_head(finished.run("train_head", "finetuned"))
    assert isinstance(head, CosineHead)
    assert head.scale == 16
    assert torch.equal(head.weight, stored["weight"])


@pytest.mark.parametrize("variant", VALUES["heads"])
def test_an_exported_model_predicts_what_the_evaluation_predicted(finished, variant, tmp_path):
    models = assert_exports_predict_as_evaluated(finished, variant, tmp_path / "out")
    assert all(isinstance(model.classifier.model.linear, CosineLinear) for model in models)
