"""After a workflow process is killed, the same command resumes. Two processes never work in the same folder."""

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

MINI = REPOSITORY / "tests" / "mini.yaml"
EPOCHS = 250
ARGUMENTS = ("--cores", "2", "--until", "pretrain", "--config", f"study={MINI}", f'pretrain={{"epochs": {EPOCHS}}}')


def pretrain_folder(folder: Path) -> Path:
    runs = study_runs(load_study([MINI], {"pretrain": {"epochs": EPOCHS}}))
    return folder / next(run.folder for run in runs if run.stage == "pretrain")


def has_checkpoint(folder: Path) -> bool:
    return bool(list((pretrain_folder(folder) / "checkpoints").glob("*.json")))


def training_processes(folder: Path) -> list[psutil.Process]:
    """Return the pretraining processes that are running in a folder."""
    found = []
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
            if "pretrain" in words and any(w.endswith("/mem") for w in words) and Path(process.cwd()) == folder:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def assert_resumed(folder: Path, output: str) -> None:
    """Check that the second attempt resumed from a checkpoint, finished, and logged every step once."""
    run = pretrain_folder(folder)
    match = re.search(r"Resuming from the checkpoint at step (\d+) of", output)
    assert match, output
    step = int(match[1])
    assert step > 0
    assert [e["step"] for e in read_events(run / "log.jsonl") if e["event"] == "resumed"] == [step]
    record = json.loads((run / "run.json").read_text())
    assert record["attempts"] == 2
    first, second = record["attempt_seconds"]
    assert min(first, second) > 0
    assert record["seconds"] == pytest.approx(first + second, abs=0.001)
    logged = [s for s, _ in read_curve(run / "log.jsonl", "train/loss")]
    assert logged == sorted(set(logged))
    assert logged[-1] == record["results"]["steps"]
    assert "unlock" not in output


def test_the_same_command_resumes_after_training_and_workflow_were_killed(tmp_path, start):
    workflow = start(tmp_path, *ARGUMENTS)
    wait(lambda: has_checkpoint(tmp_path), workflow)
    for process in training_processes(tmp_path):
        process.kill()
    workflow.send_signal(signal.SIGKILL)
    workflow.wait()
    assert_resumed(tmp_path, snakemake(tmp_path, *ARGUMENTS).stdout)


def test_training_stops_when_its_workflow_is_killed_and_the_same_command_resumes(tmp_path, start):
    workflow = start(tmp_path, *ARGUMENTS)
    wait(lambda: has_checkpoint(tmp_path), workflow)
    assert len(training_processes(tmp_path)) == 1
    workflow.send_signal(signal.SIGKILL)
    workflow.wait()
    output = snakemake(tmp_path, *ARGUMENTS).stdout
    assert_resumed(tmp_path, output)
    ends = [e for e in read_events(pretrain_folder(tmp_path) / "log.jsonl") if e["event"] == "end"]
    assert [e["status"] for e in ends] == ["stopped", "finished"]
    assert f"workflow process {workflow.pid} exited" in ends[0]["reason"]
    assert training_processes(tmp_path) == []


def test_a_second_workflow_process_in_the_same_folder_is_refused_and_the_first_continues(tmp_path, start):
    first = start(tmp_path, *ARGUMENTS)
    wait(lambda: has_checkpoint(tmp_path), first)
    second = snakemake(tmp_path, *ARGUMENTS, check=False)
    assert second.returncode != 0
    assert f"Another workflow process is running in this folder: process {first.pid} on " in second.stdout
    assert "Traceback" not in second.stdout
    assert first.poll() is None
    assert len(training_processes(tmp_path)) == 1
    # A dry run starts no jobs and is allowed.
    assert "pretrain" in snakemake(tmp_path, "--dry-run", *ARGUMENTS).stdout

    os.killpg(first.pid, signal.SIGINT)  # as Ctrl-C in a terminal does
    output = first.communicate(timeout=120)[0]
    assert "(SIGINT) Run the same command to resume." in output
    assert training_processes(tmp_path) == []


def test_a_second_working_folder_with_the_same_runs_is_refused_before_it_starts_a_job(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir(), second.mkdir()
    study = ("--cores", "2", "--until", "convert", "--config", f"study={MINI}")
    snakemake(first, *study)
    (second / "runs").symlink_to(first / "runs")
    forced = snakemake(second, *study, "--forcerun", "convert", check=False)
    assert forced.returncode != 0
    assert f"{second}: its runs/ is also the runs/ of the working folder {first}. " in forced.stdout
    assert "Traceback" not in forced.stdout
    run = first / next(run.folder for run in study_runs(load_study([MINI])) if run.stage == "convert")
    assert json.loads((run / "run.json").read_text())["attempts"] == 1
    assert not (run / "log-1.jsonl").exists()
