"""Training and features on a device that lacks the precision of the settings."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from mem import precision
from mem.data.features.stored import feature_file
from mem.distributed import World
from mem.jobs.online_features import OnlineBackbone
from mem.jobs.precision import precision_of
from mem.models.weights.tensors import load_weights
from mem.runs.dag import Run
from mem.tracking.log import read_events
from tests.stages.running import MINI_VALUES, find_run, job_of, run_study

STAGES = ("convert", "pretrain", "finetune", "features")
SHORT = {"epochs": 1, "warmup_epochs": 0.1, "base_lr": 2.5e-3}
EXACT, REPLACED = "fp32", "bf16"


def values(requested: str) -> dict:
    changed = {stage: MINI_VALUES[stage] | SHORT | {"precision": requested} for stage in ("pretrain", "finetune")}
    means = {"initial_classifier": {"source": "class_means"}}
    features = MINI_VALUES["features"] | {"precision": requested}
    return MINI_VALUES | changed | {"finetune": changed["finetune"] | means, "features": features, "compute": {}}


class Study:
    """The runs of a study in one folder, and the messages that they printed."""

    def __init__(self, folder: Path, runs: list[Run], messages: str) -> None:
        self.folder, self.runs, self.messages = folder, runs, messages

    def run(self, stage: str) -> Path:
        return self.folder / find_run(self.runs, stage).folder


@pytest.fixture(scope="module")
def studies(tmp_path_factory) -> dict[str, Study]:
    """Return the study in float32, and in bfloat16 on a device without instructions for it."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(precision, "is_supported", lambda requested, _: requested == "fp32")
        for requested in (EXACT, REPLACED):
            messages: list[str] = []
            handler = logging.Handler()
            handler.emit = lambda record, into=messages: into.append(record.getMessage())
            logging.getLogger("mem").addHandler(handler)
            try:
                folder = tmp_path_factory.mktemp(requested)
                runs = run_study(folder, values(requested), STAGES)
            finally:
                logging.getLogger("mem").removeHandler(handler)
            found[requested] = Study(folder, runs, "\n".join(messages))
    return found


@pytest.mark.parametrize(("stage", "name"), [("pretrain", "encoder.safetensors"), ("finetune", "model.safetensors")])
def test_trained_weights_are_those_of_float32(studies, stage, name):
    exact, replaced = (load_weights(study.run(stage) / name) for study in studies.values())
    assert exact.keys() == replaced.keys()
    assert all(torch.equal(exact[name], replaced[name]) for name in exact)


def test_validation_uses_float32(studies):
    exact, replaced = (
        [
            event["metrics"]["val/loss"]
            for event in read_events(study.run("finetune") / "log.jsonl")
            if "val/loss" in event.get("metrics", {})
        ]
        for study in studies.values()
    )
    assert exact
    assert exact == replaced


def test_one_rank_without_the_instructions_is_enough(studies, monkeypatch):
    study = studies[REPLACED]
    job = job_of(study.folder, find_run(study.runs, "finetune"))
    monkeypatch.setattr(precision, "is_supported", lambda *_: True)
    monkeypatch.setattr(World, "any", lambda *_: True)  # another rank lacks them
    assert precision_of(job, "bf16") == "fp32"


def test_online_features_are_those_of_float32(tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "is_supported", lambda requested, _: requested == "fp32")
    features = []
    for requested in (EXACT, REPLACED):
        changed = values(requested)
        changed["features"] |= {"online": True}
        folder = tmp_path / requested
        folder.mkdir()
        runs = run_study(folder, changed, (*STAGES, "train_head"))
        split = OnlineBackbone(job_of(folder, find_run(runs, "train_head", "crt"))).split("val")
        features.append(split.inputs(0, np.arange(len(split)), tokens=False))
    assert torch.equal(*features)


def test_features_are_those_of_float32(studies):
    exact, replaced = (np.load(feature_file(study.run("features"), "train", "pooled")) for study in studies.values())
    np.testing.assert_array_equal(exact, replaced)


@pytest.mark.parametrize("stage", ["pretrain", "finetune", "features"])
def test_the_record_contains_the_used_precision_if_it_is_not_that_of_the_settings(studies, stage):
    exact, replaced = (json.loads((study.run(stage) / "run.json").read_text())["results"] for study in studies.values())
    assert "used_precision" not in exact
    assert replaced["used_precision"] == "fp32"


def test_each_stage_says_once_that_it_uses_float32(studies):
    text = "The processor has no instructions for bfloat16, in which it would be slower than in float32. "
    assert studies[REPLACED].messages.count(text) == 3
    assert "instructions" not in studies[EXACT].messages
