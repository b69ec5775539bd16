"""Every stage on a data set without a val split, and with one held out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from mem.config import Tau
from mem.config.load import load_study
from mem.data.beton.reader import Beton
from mem.errors import UserError
from mem.report.results import from_csv
from mem.runs.dag import Run, study_runs
from mem.runs.folder import RunFolder, read_record
from mem.runs.run_config import write_configs
from mem.tracking.log import read_curve
from tests.conftest import REPOSITORY
from tests.stages.running import refusal, run_here

MINI = yaml.safe_load((REPOSITORY / "tests" / "mini.yaml").read_text())


def without_val(**dataset) -> dict:
    """The mini study with all of the digits in train."""
    cut = MINI["dataset"]["cut"] | {"val_per_class": 0}
    heads = MINI["heads"] | {"tau": {"taus": [0.5]}}
    changed = {"study": "no_val", "dataset": MINI["dataset"] | {"cut": cut} | dataset, "heads": heads}
    return MINI | changed


def ran(folder: Path, values: dict) -> list[Run]:
    """Every stage of a study, by itself."""
    (folder / "study.yaml").write_text(yaml.safe_dump(values))
    study = load_study([folder / "study.yaml"])
    runs = study_runs(study)
    write_configs(runs, study, folder)
    for run in runs:
        run_here(folder, [run.stage, "--config", str(run.folder / "config.yaml")])
    return runs


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where the study without a val split was run."""
    return tmp_path_factory.mktemp("no_val")


@pytest.fixture(scope="module")
def runs(folder) -> list[Run]:
    """The runs of the study without a val split."""
    return ran(folder, without_val())


def run_of(runs: list[Run], stage: str, variant: str | None = None) -> Run:
    return next(r for r in runs if r.stage == stage and variant in (None, r.labels.get("variant")))


def test_every_stage_works_without_a_val_split(folder, runs):
    assert len(Beton(folder / run_of(runs, "convert").folder / "val.beton")) == 0
    log = RunFolder(folder / run_of(runs, "finetune").folder).log
    assert read_curve(log, "val/acc1") == []
    assert len(read_curve(log, "train/loss")) > 3
    for variant in MINI["heads"]:
        scores = json.loads((folder / run_of(runs, "evaluate", variant).folder / "metrics.json").read_text())
        assert list(scores["splits"]) == ["test"]


def test_a_single_tau_is_taken_without_a_choice(folder, runs):
    assert read_record(folder / run_of(runs, "train_head", "tau").folder)["results"] == {"tau": 0.5}


def test_the_report_leaves_val_out(folder, runs):
    rows = from_csv(folder / "results" / "no_val" / "report" / "results.csv")
    assert {row.split for row in rows} == {"test"}
    assert {row.variant for row in rows} == set(MINI["heads"])
    page = (folder / "results" / "no_val" / "report" / "index.html").read_text()
    assert "There is no val split: settings are those of the study file" in page
    assert "Accuracy on val" not in page
    assert page.count("<svg") == 6


def test_several_taus_without_val_are_refused_when_the_study_is_read(tmp_path):
    values = without_val()
    values["heads"]["tau"] = {"taus": [0.0, 0.5, 1.0]}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(UserError) as error:
        load_study([tmp_path / "study.yaml"])
    assert "heads.tau.taus: selection from 3 values requires a val split, which the data set does not have" in str(error.value)
    assert "Choose on a holdout (dataset.holdout) first" in str(error.value)


def test_several_taus_without_val_are_refused_by_the_stage_where_only_the_data_could_tell(folder, runs):
    run = replace(run_of(runs, "train_head", "tau"), settings={"head": Tau(method="tau", taus=(0.0, 1.0))})
    write_configs([run], load_study([folder / "study.yaml"]), folder)
    message = refusal(folder, "train_head", "--config", str(run.folder / "config.yaml"))
    assert "tau: taus has 2 values to choose from, but the data set has no val split" in message


def test_a_holdout_gives_a_val_split_to_choose_with_and_the_same_study_without_it_refits(tmp_path, folder, runs):
    values = without_val(holdout={"share": 0.2, "seed": 0})
    values["heads"] = {"ce": None, "tau": {"taus": [0.0, 0.5, 1.0]}}
    chosen = ran(tmp_path, values)
    converted = read_record(tmp_path / run_of(chosen, "convert").folder)["results"]["splits"]
    whole = read_record(folder / run_of(runs, "convert").folder)["results"]["splits"]
    assert converted["train"]["images"] + converted["val"]["images"] == whole["train"]["images"]
    assert min(converted["train"]["counts"]) >= 1
    assert converted["test"] == whole["test"]
    assert (
        len(read_record(tmp_path / run_of(chosen, "train_head", "tau").folder)["results"]["val_accuracy_by_tau"]) == 3
    )
    assert run_of(chosen, "convert").key != run_of(runs, "convert").key
