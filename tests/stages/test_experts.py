"""A finetuning with experts, and heads on it: stages, stored and online features, export and prediction."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mem.config import Holdout
from mem.data.features.batches import TrainingFeatures
from mem.data.features.blocks import BlockSampler
from mem.data.features.rows import copy_parts
from mem.data.features.stored import open_split
from mem.export.exported_model import export_head
from mem.export.program import write_program
from mem.heads.base import Linear
from mem.heads.build import load_classifier, load_head
from mem.heads.ensemble import ExpertEnsemble
from mem.models.weights.tensors import load_weights
from tests.export.conftest import FinishedStudy
from tests.export.exported_predictions import assert_exports_predict_as_evaluated
from tests.stages.running import MINI_VALUES, run_study
from tests.stages.test_online import online_split

pytestmark = pytest.mark.stage
IMAGES = 20
EXPERTS = 3
WIDTH, CLASSES = MINI_VALUES["backbone"]["width"], 10
MEM_HEAD = MINI_VALUES["heads"]["mem"] | {"classifier_from": "ce"}
CLASSIFIERS = {
    "linear": {"objective": "cross_entropy", "label_smoothing": 0.1},
    "cosine": {"cosine_scale": 16, "objective": "balanced_softmax"},
}
HEADS = {
    "all": {"method": "ensemble"},
    "two": {"method": "ensemble", "experts": [3, 1], "average": "probabilities"},
    "ncm": {"method": "ncm"},
    "crt": MINI_VALUES["heads"]["crt"],
}
STAGES = ("convert", "pretrain", "finetune", "features", "train_head", "evaluate")


def study_values(kind: str, online: bool = False) -> dict:
    linear = {"ce": None, "tau": {"taus": [0.0, 1.0]}, "mem": MEM_HEAD}
    heads = linear if kind == "linear" else {"finetuned": None}
    return MINI_VALUES | {
        "study": "experts",
        "finetune": MINI_VALUES["finetune"]
        | {"epochs": 2, "ema_decay": 0.9, "experts": {"number": EXPERTS, "own_from": "blocks.1"}, **CLASSIFIERS[kind]},
        "features": {**MINI_VALUES["features"], "tokens": False, **({"online": True} if online else {})},
        "heads": heads | HEADS,
        "compute": {},
    }


@pytest.fixture(scope="module", params=CLASSIFIERS)
def finished(request, tmp_path_factory) -> FinishedStudy:
    folder: Path = tmp_path_factory.mktemp(request.param)
    return FinishedStudy(folder, run_study(folder, study_values(request.param), STAGES))


def unchanged(finished: FinishedStudy) -> str:
    """Return the name of the head that is the unchanged finetuned classifier."""
    return next(str(run.labels["variant"]) for run in finished.runs if run.labels.get("variant") in ("ce", "finetuned"))


def test_features_have_a_dimension_for_the_experts(finished):
    folder = finished.run("features")
    pooled = np.load(folder / "train-pooled.npy")
    split = open_split(folder, "train")
    assert pooled.shape == (2, len(split), EXPERTS, WIDTH)
    assert json.loads((folder / "features.json").read_text())["experts"] == EXPERTS
    assert json.loads((folder / "features.json").read_text())["width"] == EXPERTS * WIDTH
    assert split.shape(tokens=False) == (EXPERTS * WIDTH,)
    views, indices = np.array([0, 1, 1]), np.array([5, 0, 7])
    inputs = split.inputs(views, indices, tokens=False)
    np.testing.assert_array_equal(inputs.numpy(), pooled[views, indices].reshape(3, -1))
    assert not np.allclose(pooled[0, :, 0], pooled[0, :, 1])


def test_the_stored_classifier_has_one_classifier_per_expert(finished):
    weights = load_weights(finished.run("finetune") / "model.safetensors")
    stored = load_classifier(finished.run("features") / "classifier.safetensors")
    assert isinstance(stored, ExpertEnsemble)
    assert stored.weight.shape == (EXPERTS, CLASSES, WIDTH)
    for expert in range(EXPERTS):
        assert torch.equal(stored.weight[expert], weights[f"experts.{expert}.head.weight"])
    if stored.scale is None:
        assert stored.bias is not None and torch.equal(stored.bias[2], weights["experts.2.head.bias"])
    else:
        assert stored.scale == 16 and stored.bias is None


def test_heads_average_the_experts(finished):
    split = open_split(finished.run("features"), "test")
    inputs = split.inputs(0, np.arange(IMAGES), tokens=False)
    stored = load_classifier(finished.run("features") / "classifier.safetensors")
    assert isinstance(stored, ExpertEnsemble)
    logits = stored.expert_logits(inputs)
    for name in ("all", unchanged(finished)):
        head = load_head(finished.run("train_head", name))
        torch.testing.assert_close(head(inputs), logits.mean(dim=1))
    two = load_head(finished.run("train_head", "two"))
    torch.testing.assert_close(two(inputs).softmax(dim=1), logits[:, [0, 2]].softmax(dim=2).mean(dim=1))


@pytest.mark.parametrize("finished", ["linear"], indirect=True)
def test_heads_on_linear_experts_start_from_the_mean_of_their_classifiers(finished):
    split = open_split(finished.run("features"), "test")
    inputs = split.inputs(0, np.arange(IMAGES), tokens=False)
    tau, ce = (load_head(finished.run("train_head", name)) for name in ("tau", "ce"))
    linear = ce.as_linear()
    assert isinstance(linear, Linear) and isinstance(tau, Linear)
    torch.testing.assert_close(linear(inputs), ce(inputs))
    assert tau.weight.shape == linear.weight.shape == (CLASSES, EXPERTS * WIDTH)


def test_an_exported_model_predicts_what_the_evaluation_predicted(finished, tmp_path):
    head_names = [run.labels["variant"] for run in finished.runs if run.stage == "train_head"]
    for name in head_names:
        assert_exports_predict_as_evaluated(finished, name, tmp_path / name)


def test_an_exported_program_computes_the_same_probabilities(finished, tmp_path):
    model = export_head(finished.run("train_head", "two"), tmp_path / "out")
    write_program(model, tmp_path / "out")
    pixels = torch.randint(0, 256, (5, 8, 8, 3), dtype=torch.uint8)
    program = torch.export.load(tmp_path / "out" / "program.pt2").module()
    torch.testing.assert_close(program(pixels)["probabilities"], model.classifier(pixels)["probabilities"])


@pytest.mark.parametrize("finished", ["linear"], indirect=True)
def test_online_features_equal_the_stored_ones(finished, tmp_path):
    stored = open_split(finished.run("features"), "train")
    runs = run_study(finished.folder, study_values("linear", online=True), (*STAGES[:4], "train_head"))
    online = online_split(finished.folder, runs, "train")
    assert online.shape(tokens=False) == stored.shape(tokens=False)
    views, indices = np.array([0, 1, 1, 0]), np.array([5, 0, 7, 9])
    expected = stored.inputs(views, indices, tokens=False)
    torch.testing.assert_close(online.inputs(views, indices, tokens=False), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("finished", ["linear"], indirect=True)
def test_features_of_held_out_images_keep_the_dimension_of_the_experts(finished, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for path in finished.run("features").iterdir():
        if path.name != "val-labels.npy" and path.is_file():
            (source / path.name).write_bytes(path.read_bytes())
    np.save(source / "val-labels.npy", np.zeros(0, dtype=np.int64))
    copy_parts(source, tmp_path / "parts", Holdout(share=0.25, seed=0))
    whole, part = open_split(source, "train"), open_split(tmp_path / "parts", "val")
    assert np.load(tmp_path / "parts" / "val-pooled.npy").shape == (1, len(part), EXPERTS, WIDTH)
    rows = {row.tobytes() for row in np.asarray(whole.pooled[0])}
    assert len(part) and all(row.tobytes() in rows for row in np.asarray(part.pooled[0]))


@pytest.mark.parametrize("finished", ["linear"], indirect=True)
def test_batches_from_blocks_equal_those_from_memory(finished):
    split = open_split(finished.run("features"), "train")
    sampler = BlockSampler(len(split), 0, block=8, window=3)
    batches = list(TrainingFeatures(split, sampler, 32, 0, tokens=False).from_step(0, 3))
    for batch in batches:
        views = sampler.views(batch.first, 32, 2, 0)
        expected = split.inputs(views, sampler.indices(batch.first, 32), tokens=False)
        assert torch.equal(batch.inputs, expected)
