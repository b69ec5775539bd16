"""Predictions from the mean logits of several crops: stored and online, with selection, experts and BatchNorm."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mem.config import Crops
from mem.data.features.stored import FeatureSplit, open_split
from mem.data.loading.split_images import open_images
from mem.heads.base import Linear
from mem.heads.build import load_head
from mem.heads.selection import choose_on_val
from mem.heads.tau import tau_normalised
from mem.jobs.online_features import OnlineBackbone
from mem.metrics.predictions import PREDICTIONS_FILE, read_metadata, read_predictions
from mem.runs.dag import Run
from mem.runs.folder import read_record
from mem.runs.keys import CROPS
from mem.runs.outputs import missing_outputs
from mem.runs.run_config import read_config
from tests.stages.running import MINI_VALUES, find_run, job_of, run_study

EVALUATE = {"crops": {"number": 10, "resize": 11}}
NAME = "ten crops at 11"
STAGES = ("convert", "finetune", "features", "train_head", "evaluate")


def study(**changes: object) -> dict:
    """Return a small study with crops: a head that selects tau, cRT on pooled features, and MEM on tokens."""
    values = copy.deepcopy(MINI_VALUES)
    finetune = values["finetune"] | {"epochs": 1, "warmup_epochs": 0.1, "drop_path": 0.0}
    heads = {name: values["heads"][name] for name in ("ce", "tau", "crt", "mem_on_crt")}
    heads["tau"] = {"taus": [0.0, 0.5, 1.0, 2.0]}
    values |= {"pretrain": None, "finetune": finetune, "heads": heads, "compute": {}, "evaluate": EVALUATE}
    return values | changes


def crops_run(runs: list[Run], branch: str | None = None) -> Run:
    return next(run for run in runs if CROPS in run.settings and run.labels.get("branch") == branch)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, list[Run]]:
    folder = tmp_path_factory.mktemp("crops")
    return folder, run_study(folder, study(), STAGES)


def mean_logits(folder: Path, run: Run, split: FeatureSplit) -> torch.Tensor:
    """Return the mean logits of a head over all views of a split."""
    head = load_head(folder / run.folder)
    indices = np.arange(len(split))
    with torch.no_grad():
        return torch.stack(
            [head(split.inputs(view, indices, tokens=head.uses_tokens)) for view in range(split.views)]
        ).mean(dim=0)


def test_the_run_stores_every_crop_of_val_and_test_and_no_training_image(finished):
    folder, runs = finished
    run = crops_run(runs)
    shapes = {name: open_split(folder / run.folder, name).pooled.shape for name in ("train", "val", "test")}
    assert shapes == {"train": (10, 0, 16), "val": (10, 100, 16), "test": (10, 200, 16)}
    assert missing_outputs(folder / run.folder, "features", run.settings, run.inputs) == ()
    results = read_record(folder / run.folder)["results"]
    assert results["crops"] == EVALUATE["crops"]
    assert results["enlarged_images"] == 300, "the images have 8 pixels"


def test_the_features_are_those_of_the_backbone_on_the_crops(finished):
    folder, runs = finished
    backbone = OnlineBackbone(job_of(folder, crops_run(runs)), crops=read_crops(folder, runs))
    images = open_images(folder / find_run(runs, "convert").folder, "test")
    stored = open_split(folder / crops_run(runs).folder, "test")
    for view in (0, 4, 9):
        (batch,) = backbone.views(images).of_view(np.arange(6), view, 6)
        with torch.no_grad():
            pooled, tokens = backbone.compute(batch.inputs)
        torch.testing.assert_close(stored.inputs(view, np.arange(6), tokens=False), pooled)
        torch.testing.assert_close(stored.inputs(view, np.arange(6), tokens=True)[:, 1:], tokens)
    assert not np.allclose(stored.pooled[0], stored.pooled[9])


def read_crops(folder: Path, runs: list[Run]) -> Crops:
    return read_config(folder / crops_run(runs).folder, "features").section(CROPS, Crops)


@pytest.mark.parametrize("variant", ["ce", "crt", "mem_on_crt"])
def test_predictions_are_those_of_the_mean_logits(finished, variant):
    folder, runs = finished
    path = folder / find_run(runs, "evaluate", variant).folder
    head = find_run(runs, "train_head", variant)
    about, splits = (read_metadata(path / PREDICTIONS_FILE), read_predictions(path / PREDICTIONS_FILE)[1])
    assert about.crops == NAME
    for name, found in splits.items():
        logits = mean_logits(folder, head, open_split(folder / crops_run(runs).folder, name))
        expected = logits.softmax(dim=1).gather(1, torch.from_numpy(found.top)).numpy()
        np.testing.assert_allclose(found.top_probabilities, expected, atol=1e-5)
        # A single crop gives other probabilities.
        plain = mean_logits(folder, head, open_split(folder / find_run(runs, "features").folder, name))
        assert np.abs(plain.softmax(dim=1).gather(1, torch.from_numpy(found.top)).numpy() - expected).max() > 1e-3
    metrics = json.loads((path / "metrics.json").read_text())
    assert metrics["crops"] == read_record(path)["results"]["crops"] == EVALUATE["crops"]
    log = (path / "log.jsonl").read_text()
    assert f'"test {NAME}/all"' in log
    assert '"test/all"' not in log, "MLflow would mix these scores with those of one central crop"


def test_tau_is_selected_with_the_mean_logits_of_val(finished):
    folder, runs = finished
    results = read_record(folder / find_run(runs, "train_head", "tau").folder)["results"]
    val = open_split(folder / crops_run(runs).folder, "val")
    linear = load_head(folder / find_run(runs, "train_head", "ce").folder).as_linear()
    assert linear is not None

    def head_of_tau(tau: float) -> Linear:
        return tau_normalised(linear.weight.detach(), tau)

    mean = torch.from_numpy(np.array(val.pooled)).mean(dim=0)
    _, scores = choose_on_val(head_of_tau, [0.0, 0.5, 1.0, 2.0], mean, torch.from_numpy(val.labels))
    expected = {f"{tau:g}": round(100 * score.balanced, 3) for tau, score in scores.items()}
    assert results["val_balanced_accuracy_by_tau"] == expected


def test_online_crops_give_the_same_predictions(finished, tmp_path):
    folder, runs = finished
    values = study()
    values["features"] = values["features"] | {"online": True}
    values["heads"] = {"ce": None}
    online = run_study(tmp_path, values, STAGES)
    files = (folder / find_run(runs, "evaluate", "ce").folder, tmp_path / find_run(online, "evaluate", "ce").folder)
    stored, computed = (read_predictions(path / PREDICTIONS_FILE)[1]["test"] for path in files)
    np.testing.assert_allclose(stored.top_probabilities, computed.top_probabilities, atol=1e-4)
    assert not (tmp_path / crops_run(online).folder / "test-pooled.npy").exists()


def test_held_out_images_of_a_frozen_backbone_have_crops(tmp_path):
    values = study(finetune=None, selection={"holdout": {"share": 0.2, "seed": 0}})
    values["heads"] = {"ce": {"training": values["heads"]["crt"]["training"]}}
    values["dataset"]["cut"]["val_per_class"] = 0
    runs = run_study(tmp_path, values, STAGES)
    select, refit = (crops_run(runs, branch) for branch in ("select", "refit"))
    held_out = open_split(
        tmp_path / next(r for r in runs if r.stage == "features" and r.labels.get("branch") == "select").folder, "val"
    )
    found = open_split(tmp_path / select.folder, "val")
    assert found.views == 10
    assert found.labels.tolist() == held_out.labels.tolist()
    assert len(open_split(tmp_path / select.folder, "test")) == len(open_split(tmp_path / refit.folder, "val")) == 0
    assert len(open_split(tmp_path / refit.folder, "test")) == 200
