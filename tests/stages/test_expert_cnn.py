"""Experts of a convolutional network with narrower layers: exact resume, BatchNorm update and export."""

from __future__ import annotations

import pytest
from safetensors.torch import load_file

from mem.models.weights.tensors import load_weights
from mem.runs.folder import read_record
from mem.runs.outputs import BATCH_NORM_STATISTICS
from tests.export.conftest import FinishedStudy
from tests.export.exported_predictions import assert_exports_predict_as_evaluated
from tests.stages.interruption import interrupt_finetuning
from tests.stages.running import MINI_VALUES, find_run, run_study

pytestmark = pytest.mark.stage
IMAGES = 20
STOP_STEP = 4
VALUES = MINI_VALUES | {
    "study": "expert_cnn",
    "pretrain": None,
    "backbone": {
        "name": "cnn", "kind": "timm", "model": "resnet10t", "image_size": 32, "norm_batch": 16, "center_crop": 1.0,
    },
    "finetune": MINI_VALUES["finetune"]
    | {
        "epochs": 1,
        "warmup_epochs": 0.1,
        "ema_decay": 0.8,
        "experts": {"number": 2, "own_from": "layer3", "width_factor": 0.75},
    },
    "features": {
        "views": 0,
        "augmentation": {"crop_scale": [0.5, 1.0], "flip": True},
        "tokens": False,
        "batch_norm": {"sampler": "class_balanced", "epochs": 0.5, "batch": 16},
    },
    "heads": {"ce": None, "first": {"method": "ensemble", "experts": [1]}},
    "compute": {"finetune": {"recompute_activations": True, "channels_last": True}},
}  # fmt: skip
STAGES = ("convert", "finetune", "features", "train_head", "evaluate")


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> FinishedStudy:
    folder = tmp_path_factory.mktemp("expert_cnn")
    return FinishedStudy(folder, run_study(folder, VALUES, STAGES))


def test_experts_own_narrower_layers(finished):
    weights = load_weights(finished.run("finetune") / "model.safetensors")
    assert weights["shared.layer2.0.conv2.weight"].shape[0] == 128
    assert [weights[f"experts.{i}.layer3.0.conv2.weight"].shape[0] for i in range(2)] == [192, 192]
    assert weights["experts.1.fc.weight"].shape == (10, 384)
    parameters = read_record(finished.run("finetune"))["results"]["parameters"]
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    assert parameters == sum(value.numel() for name, value in weights.items() if not name.endswith(buffers))


def test_an_interrupted_finetuning_resumes_bitwise(finished, tmp_path, monkeypatch):
    run = find_run(finished.runs, "finetune")
    expected = load_file(finished.folder / run.folder / "model.safetensors")
    resumed = load_file(
        interrupt_finetuning(tmp_path, finished.folder, run, STOP_STEP, monkeypatch) / "model.safetensors"
    )
    assert resumed.keys() == expected.keys()
    assert all(resumed[key].equal(expected[key]) for key in expected)


def test_the_batch_norm_update_covers_shared_and_owned_layers(finished):
    before = load_weights(finished.run("finetune") / "model.safetensors")
    updated = load_weights(finished.run("features") / BATCH_NORM_STATISTICS)
    means = [name for name in updated if name.endswith("running_mean")]
    assert {name.split(".")[0] for name in means} == {"shared", "experts"}
    assert all(not updated[name].equal(before[name]) for name in means)


@pytest.mark.parametrize("variant", VALUES["heads"])
def test_an_exported_model_predicts_what_the_evaluation_predicted(finished, variant, tmp_path):
    assert_exports_predict_as_evaluated(finished, variant, tmp_path / "out", atol=1e-4, rtol=1e-3)
