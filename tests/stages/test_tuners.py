"""Finetuning with a tuner: the stages, an interrupted run, export, the plan, and the check of a study."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from mem.export.classifier import ImageClassifier
from mem.models.backbones import BackboneClassifier, merged
from mem.models.tuners.lora import LoraLinear
from tests.export.conftest import FinishedStudy
from tests.export.exported_predictions import assert_exports_predict_as_evaluated
from tests.stages.interruption import interrupt_finetuning
from tests.stages.running import MINI_VALUES, call_mem, run_study

pytestmark = pytest.mark.stage
TUNERS = {
    "lora": {"name": "lora", "rank": 2, "alpha": 4.0, "layers": ["query", "value"]},
    "vpt": {"name": "vpt", "tokens": 3, "deep": True},
}
STAGES = ("convert", "pretrain", "finetune", "features", "train_head", "evaluate")
STOP_STEP = 6


def values(tuner: dict) -> dict:
    finetune = MINI_VALUES["finetune"] | {"epochs": 2, "ema_decay": 0.5, "tuner": tuner}
    heads = {"ce": None, "crt": MINI_VALUES["heads"]["crt"]}
    features = MINI_VALUES["features"] | {"tokens": False}
    return MINI_VALUES | {"study": "tuned", "finetune": finetune, "features": features, "heads": heads}


@pytest.fixture(scope="module", params=TUNERS)
def finished(request, tmp_path_factory) -> tuple[str, FinishedStudy]:
    folder: Path = tmp_path_factory.mktemp(request.param)
    return request.param, FinishedStudy(folder, run_study(folder, values(TUNERS[request.param]), STAGES))


def stated(study: FinishedStudy) -> str:
    """Return the sentence with the number of parameters that train, without the share."""
    record = json.loads((study.run("finetune") / "run.json").read_text())["results"]
    return f"Training {record['parameters']:,} of {record['total_parameters']:,} parameters"


def test_the_parameters_that_train_are_recorded_and_the_final_weights_are_complete(finished):
    name, study = finished
    record = json.loads((study.run("finetune") / "run.json").read_text())["results"]
    weights = load_file(study.run("finetune") / "model.safetensors")
    added = {key: value for key, value in weights.items() if "lora" in key or "prompts" in key}
    new = {key: value for key, value in weights.items() if key.startswith(("head.", "fc_norm."))}
    assert len(added) == {"lora": 8, "vpt": 2}[name]
    assert record["parameters"] == sum(value.numel() for value in [*added.values(), *new.values()])
    assert record["total_parameters"] == sum(value.numel() for value in weights.values())
    encoder = load_file(study.run("pretrain") / "encoder.safetensors")
    kept = weights.keys() - added.keys() - new.keys()
    assert kept and all(torch.equal(weights[key], encoder[key]) for key in kept)


def test_an_interrupted_training_ends_with_the_same_weights(finished, tmp_path, monkeypatch, caplog):
    _, study = finished
    run = next(run for run in study.runs if run.stage == "finetune")
    sizes = []
    replace = os.replace

    def measured(source, target):
        sizes.append((str(target), os.path.getsize(source)))
        replace(source, target)

    monkeypatch.setattr(os, "replace", measured)
    with caplog.at_level(logging.INFO, logger="mem"):
        folder = interrupt_finetuning(tmp_path, study.folder, run, STOP_STEP, monkeypatch)
    assert caplog.text.count(stated(study)) == 2  # at the start and at the resume
    expected, found = (load_file(each / "model.safetensors") for each in (study.run("finetune"), folder))
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[key], found[key]) for key in expected)
    weights = (folder / "model.safetensors").stat().st_size
    checkpoints = [size for target, size in sizes if target.endswith(".pt")]
    assert checkpoints and max(checkpoints) < weights  # a complete one has four times as many numbers


def test_exported_models_predict_as_evaluated_and_lora_can_be_merged(finished, tmp_path):
    name, study = finished
    for model in assert_exports_predict_as_evaluated(study, "crt", tmp_path / "out"):
        assert isinstance(model.classifier, ImageClassifier)
        network = model.classifier.model
        assert isinstance(network, BackboneClassifier)
        assert any(isinstance(module, LoraLinear) for module in network.modules()) == (name == "lora")
        if name == "lora":
            images = torch.rand(2, 3, 8, 8)
            torch.testing.assert_close(merged(network)(images), network(images), rtol=1e-6, atol=1e-6)
    assert json.loads((tmp_path / "out" / "export.json").read_text())["tuner"] == TUNERS[name]


def test_the_plan_states_what_trains_and_a_wrong_tuner_is_found_before_training(finished):
    _, study = finished
    assert f"finetune: {stated(study)}" in call_mem(study.folder, "plan", "study.yaml").out
    wrong = values({"name": "lora", "rank": 17, "alpha": 1.0, "layers": ["key"]})
    (study.folder / "wrong.yaml").write_text(yaml.safe_dump(wrong))
    error = call_mem(study.folder, "config", "--check", "wrong.yaml", status=2).err
    assert error.startswith("mem: finetune.tuner.rank (17): the layer `key` of a backbone of kind vit has 16 inputs")
    assert error.count("\n") == 1
