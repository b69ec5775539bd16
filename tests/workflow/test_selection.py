"""One command runs a dataset without a val split: it holds out images, chooses settings, and trains on all images."""

from __future__ import annotations

import csv
import json
import os
import signal
from pathlib import Path

import pytest
import yaml

from mem.config.load import load_study
from mem.runs.dag import Run, study_runs
from mem.tracking.log import read_events
from tests.data.miniatures import inaturalist_2018
from tests.stages.running import MINI_VALUES
from tests.waiting import wait
from tests.workflow.conftest import jobs, snakemake

HEADS = ("ce", "tau", "crt", "mem")
ARGUMENTS = ("--cores", "2", "--config", "study=inat.yaml")


@pytest.fixture
def runs(tmp_path) -> list[Run]:
    """The runs of a study of a miniature of iNaturalist 2018, whose file is written to the folder of the test."""
    training = {"epochs": 4, "warmup_epochs": 0.5, "global_batch": 16}
    augmentation = {"crop_scale": [0.5, 1.0], "flip": True}
    values = MINI_VALUES | {
        "study": "inat_mini",
        "dataset": inaturalist_2018(tmp_path),
        "shots": {"many_above": 10, "few_below": 4},
        "selection": {"holdout": {"share": 0.25, "seed": 0}},
        "backbone": MINI_VALUES["backbone"] | {"image_size": 16},
        "pretrain": MINI_VALUES["pretrain"] | training | {"augmentation": augmentation},
        "finetune": MINI_VALUES["finetune"] | training | {"epochs": 80, "validate_every_epochs": 20},
        "heads": {name: MINI_VALUES["heads"][name] for name in HEADS},
        "compute": {"finetune": {"checkpoint_minutes": 0.0}},
    }
    path = tmp_path / "inat.yaml"
    path.write_text(yaml.safe_dump(values))
    return study_runs(load_study([path]))


def find(runs: list[Run], stage: str, branch: str, variant: str | None = None) -> Run:
    labels = {"branch": branch, **({"variant": variant} if variant else {})}
    return next(run for run in runs if run.stage == stage and labels.items() <= run.labels.items())


def test_one_command_holds_out_selects_and_refits_and_resumes_after_it_was_killed(tmp_path, runs, start):
    planned = jobs(tmp_path, *ARGUMENTS[2:])
    assert (planned["convert"], planned["pretrain"], planned["finetune"], planned["features"]) == (1, 1, 2, 2)
    assert planned["train_head"] == planned["evaluate"] == 2 * len(HEADS)

    finetune = [tmp_path / find(runs, "finetune", branch).folder for branch in ("select", "refit")]
    workflow = start(tmp_path, *ARGUMENTS)
    checkpoints = [folder / "checkpoints" for folder in finetune]
    wait(lambda: any(list(folder.glob("*.json")) for folder in checkpoints), workflow, seconds=600)
    os.killpg(workflow.pid, signal.SIGKILL)
    workflow.wait()
    snakemake(tmp_path, *ARGUMENTS)
    events = [event for folder in finetune for event in read_events(folder / "log.jsonl")]
    assert any(event["event"] == "resumed" and event["step"] > 0 for event in events)
    assert not jobs(tmp_path, *ARGUMENTS[2:])

    results = {
        branch: json.loads((tmp_path / find(runs, "train_head", branch, "tau").folder / "run.json").read_text())
        for branch in ("select", "refit")
    }
    assert results["refit"]["results"] == {"tau": results["select"]["results"]["tau"]}
    assert results["refit"]["inputs"]["selection"] == str(find(runs, "train_head", "select", "tau").folder)
    check_results(tmp_path / "results" / "inat_mini", runs)


def check_results(folder: Path, runs: list[Run]) -> None:
    """Check that the report shows both splits, and that `runs.csv` contains the branches."""
    with open(folder / "report" / "results.csv", encoding="utf-8", newline="") as file:
        rows = {(row["variant"], row["split"]): row["key"] for row in csv.DictReader(file)}
    assert rows == {
        (head, split): find(runs, "train_head", branch, head).key
        for head in HEADS
        for split, branch in (("val", "select"), ("test", "refit"))
    }
    with open(folder / "runs.csv", encoding="utf-8", newline="") as file:
        listed = {row["key"]: row["branch"] for row in csv.DictReader(file)}
    assert {run.key: run.labels.get("branch", "") for run in runs if run.stage != "report"} == listed
