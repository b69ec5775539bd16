"""Stages on a dataset without a val split, and on a dataset whose val split is held out from the training split."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.torch import load_file

from mem.config import Tau
from mem.config.load import load_study
from mem.data.beton.reader import Beton
from mem.errors import UserError
from mem.report.results import from_csv
from mem.runs.dag import Run
from mem.runs.folder import RunFolder, read_record
from mem.runs.run_config import write_configs
from mem.tracking.log import read_curve
from tests.stages.running import MINI_VALUES, call_mem, find_run, run_study


def without_val(**dataset) -> dict:
    """Return the mini study without a val split."""
    cut = MINI_VALUES["dataset"]["cut"] | {"val_per_class": 0}
    heads = MINI_VALUES["heads"] | {"tau": {"taus": [0.5]}}
    changed = {"study": "no_val", "dataset": MINI_VALUES["dataset"] | {"cut": cut} | dataset, "heads": heads}
    return MINI_VALUES | changed


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The folder in which the study without a val split was run."""
    return tmp_path_factory.mktemp("no_val")


@pytest.fixture(scope="module")
def runs(folder) -> list[Run]:
    """The runs of the study without a val split."""
    return run_study(folder, without_val())


def test_every_stage_works_without_a_val_split(folder, runs):
    assert len(Beton(folder / find_run(runs, "convert").folder / "val.beton")) == 0
    log = RunFolder(folder / find_run(runs, "finetune").folder).log
    assert read_curve(log, "val/acc1") == []
    assert len(read_curve(log, "train/loss")) > 3
    for variant in MINI_VALUES["heads"]:
        scores = json.loads((folder / find_run(runs, "evaluate", variant).folder / "metrics.json").read_text())
        assert list(scores["splits"]) == ["test"]


def test_a_single_tau_needs_no_selection(folder, runs):
    assert read_record(folder / find_run(runs, "train_head", "tau").folder)["results"] == {"tau": 0.5}


def test_the_report_contains_no_val_scores(folder, runs):
    rows = from_csv(folder / "results" / "no_val" / "report" / "results.csv")
    assert {row.split for row in rows} == {"test"}
    assert {row.variant for row in rows} == set(MINI_VALUES["heads"])
    page = (folder / "results" / "no_val" / "report" / "index.html").read_text()
    assert "There is no val split; settings are those in the study file" in page
    assert "Accuracy on val" not in page
    assert page.count("<svg") == 9


def test_several_taus_without_a_val_split_are_refused_when_the_study_is_loaded(tmp_path):
    values = without_val()
    values["heads"]["tau"] = {"taus": [0.0, 0.5, 1.0]}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(UserError) as error:
        load_study([tmp_path / "study.yaml"])
    message = str(error.value)
    assert "heads.tau.taus: selection from 3 values requires a val split, which the dataset does not have" in message
    assert "Add `selection: {holdout: {share: 0.1, seed: 0}}`" in message


def test_several_taus_without_a_val_split_are_refused_by_the_stage_if_only_the_data_show_it(folder, runs):
    run = replace(find_run(runs, "train_head", "tau"), settings={"head": Tau(method="tau", taus=(0.0, 1.0))})
    write_configs([run], load_study([folder / "study.yaml"]), folder)
    message = call_mem(folder, "train_head", "--config", str(run.folder / "config.yaml"), status=2).err
    assert "tau: taus has 2 candidates, but the dataset has no val split" in message


def test_tau_is_selected_on_a_holdout_and_the_study_without_the_holdout_trains_on_all_images(tmp_path, folder, runs):
    values = without_val(holdout={"share": 0.2, "seed": 0})
    values["heads"] = {"ce": None, "tau": {"taus": [0.0, 0.5, 1.0]}}
    values["pretrain"] = None
    holdout_runs = run_study(tmp_path, values)
    converted = read_record(tmp_path / find_run(holdout_runs, "convert").folder)["results"]["splits"]
    all_images = read_record(folder / find_run(runs, "convert").folder)["results"]["splits"]
    assert converted["train"]["images"] + converted["val"]["images"] == all_images["train"]["images"]
    assert min(converted["train"]["counts"]) >= 1
    assert converted["test"] == all_images["test"]
    assert (
        len(
            read_record(tmp_path / find_run(holdout_runs, "train_head", "tau").folder)["results"]["val_accuracy_by_tau"]
        )
        == 3
    )
    assert find_run(holdout_runs, "convert").key != find_run(runs, "convert").key
    # The shot groups are defined by the training images before the holdout.
    metrics, before = (
        json.loads((at / find_run(planned, "evaluate", "tau").folder / "metrics.json").read_text())
        for at, planned in ((tmp_path, holdout_runs), (folder, runs))
    )
    assert metrics["counts_before_holdout"] == before["class_counts"] == all_images["train"]["counts"]
    assert metrics["class_counts"] == converted["train"]["counts"] != before["class_counts"]


def test_a_holdout_moves_no_class_between_the_experts_of_ace(tmp_path):
    values = without_val(holdout={"share": 0.2, "seed": 0}) | {"pretrain": None}
    values["finetune"] = MINI_VALUES["finetune"] | {
        "objective": {"name": "ace", "largest_counts": [20], "suppression_weight": 0.01},
        "experts": {"number": 2, "own_from": "blocks.1"},
        "label_smoothing": 0.0,
    }
    values["features"] = MINI_VALUES["features"] | {"tokens": False}
    values["heads"] = {"finetuned": None}
    runs = run_study(tmp_path, values, ("convert", "finetune", "features"))
    manifest = json.loads((tmp_path / find_run(runs, "convert").folder / "dataset.json").read_text())
    before, after = (np.array(c) for c in (manifest["counts_before_holdout"], manifest["splits"]["train"]["counts"]))
    owned = load_file(tmp_path / find_run(runs, "features").folder / "classifier.safetensors")["owned_classes"]
    assert owned[1].bool().tolist() == (before <= 20).tolist() != (after <= 20).tolist(), (before, after)
