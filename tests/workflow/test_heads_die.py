"""Heads of workflows die: the same command goes on, and no two work at once."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

import psutil
import pytest

from mem.config.load import load_study
from mem.runs.dag import study_runs
from mem.tracking.log import read_curve, read_events
from tests.conftest import REPOSITORY
from tests.waiting import wait
from tests.workflow.conftest import snakemake

pytestmark = pytest.mark.workflow
MINI = REPOSITORY / "tests" / "mini.yaml"
EPOCHS = 250
ARGUMENTS = ("--cores", "2", "--until", "pretrain", "--config", f"study={MINI}", f'pretrain={{"epochs": {EPOCHS}}}')


def pretraining(folder: Path) -> Path:
    runs = study_runs(load_study([MINI], {"pretrain": {"epochs": EPOCHS}}))
    return folder / next(run.folder for run in runs if run.stage == "pretrain")


def saved(folder: Path) -> bool:
    return bool(list((pretraining(folder) / "checkpoints").glob("*.json")))


def trainers(folder: Path) -> list[psutil.Process]:
    """Living pretrainings that work in a folder."""
    found = []
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
            if "pretrain" in words and any(w.endswith("/mem") for w in words) and Path(process.cwd()) == folder:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def assert_it_went_on(folder: Path, out: str) -> None:
    run = pretraining(folder)
    step = int(re.search(r"Resuming from the checkpoint at step (\d+) of", out).group(1))
    assert step > 0
    assert [e["step"] for e in read_events(run / "log.jsonl") if e["event"] == "resumed"] == [step]
    record = json.loads((run / "run.json").read_text())
    assert record["attempts"] == 2
    logged = [s for s, _ in read_curve(run / "log.jsonl", "train/loss")]
    assert logged == sorted(set(logged))
    assert logged[-1] == record["results"]["steps"]
    assert "unlock" not in out


def test_trainer_and_head_killed_then_the_same_command_goes_on(tmp_path, start):
    head = start(tmp_path, *ARGUMENTS)
    wait(lambda: saved(tmp_path), head)
    for trainer in trainers(tmp_path):
        trainer.kill()
    head.send_signal(signal.SIGKILL)
    head.wait()
    assert_it_went_on(tmp_path, snakemake(tmp_path, *ARGUMENTS).stdout)


def test_a_killed_head_takes_its_trainer_along_and_the_same_command_goes_on(tmp_path, start):
    head = start(tmp_path, *ARGUMENTS)
    wait(lambda: saved(tmp_path), head)
    assert len(trainers(tmp_path)) == 1
    head.send_signal(signal.SIGKILL)
    head.wait()
    out = snakemake(tmp_path, *ARGUMENTS).stdout
    assert_it_went_on(tmp_path, out)
    ends = [e for e in read_events(pretraining(tmp_path) / "log.jsonl") if e["event"] == "end"]
    assert [e["status"] for e in ends] == ["stopped", "finished"]
    assert f"workflow process {head.pid} exited" in ends[0]["reason"]
    assert trainers(tmp_path) == []


def test_a_second_head_in_the_same_folder_is_refused_and_the_first_goes_on(tmp_path, start):
    first = start(tmp_path, *ARGUMENTS)
    wait(lambda: saved(tmp_path), first)
    second = snakemake(tmp_path, *ARGUMENTS, check=False)
    assert second.returncode != 0
    assert f"A workflow runs in this folder already: process {first.pid} on " in second.stdout
    assert "Traceback" not in second.stdout
    assert first.poll() is None
    assert len(trainers(tmp_path)) == 1
    # A dry run beside it is no second head.
    assert "pretrain" in snakemake(tmp_path, "--dry-run", *ARGUMENTS).stdout

    os.killpg(first.pid, signal.SIGINT)  # as Ctrl-C on the terminal does
    said = first.communicate(timeout=120)[0]
    assert "(SIGINT) Run the same command to resume." in said
    assert trainers(tmp_path) == []
