"""Heads that the fork server of a workflow process trains: they are stopped like other jobs."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import psutil
import pytest
import yaml

from mem.config import Study
from mem.runs.dag import study_runs
from mem.runs.folder import RunFolder
from mem.tracking.log import read_events
from tests.stages.custom_studies import HEADS, feature_file_study
from tests.stages.running import find_run
from tests.waiting import running, wait
from tests.workflow.conftest import snakemake

LONG = {"method": "crt", "training": HEADS["crt"]["training"] | {"epochs": 100_000}}
CORES = ("--cores", "2")
LOCAL_CLUSTER = ("--executor", "submitit", "--submitit-cluster", "local", "--jobs", "2")
SECONDS = 60


def write_study(folder: Path, **heads: dict) -> Path:
    """Write a study on feature files with these heads. Return the run folder of the last head."""
    values = feature_file_study(folder, heads=heads, seeds=[0, 1])
    (folder / "study.yaml").write_text(yaml.safe_dump(values))
    runs = study_runs(Study.model_validate(values))
    return folder / find_run(runs, "train_head", list(heads)[-1]).folder


def server_log(folder: Path) -> str:
    """Return the messages of the fork server."""
    path = folder / "logs" / "fork-server.log"
    return path.read_text() if path.exists() else ""


def forked_process(folder: Path, run: Path) -> psutil.Process | None:
    """Return the process of a run, if the fork server has started it."""
    lines = [line for line in server_log(folder).splitlines() if run.name in line]
    return psutil.Process(int(lines[-1].split()[1].rstrip(":"))) if lines else None


def training(folder: Path, run: Path) -> bool:
    """Return whether the training of a run has begun."""
    log = RunFolder(run).log
    return log.exists() and any(event["event"] == "training" for event in read_events(log))


def last_event(run: Path) -> dict:
    """Return the last event of a run."""
    return list(read_events(RunFolder(run).log))[-1]


def test_the_heads_of_a_study_are_forked(tmp_path):
    again = {"method": "crt", "classifier_from": "crt", "training": HEADS["crt"]["training"]}
    write_study(tmp_path, again=again, ce=HEADS["ce"], crt=HEADS["crt"])
    snakemake(tmp_path, *CORES, "--configfile", "study.yaml", "--until", "evaluate")
    lines = server_log(tmp_path).splitlines()
    assert sum(": mem train_head " in line for line in lines) == 6
    assert sum(": mem evaluate " in line for line in lines) == 6
    assert len(lines) == 12


def start_training(start, folder: Path, *executor: str) -> tuple[subprocess.Popen, Path, psutil.Process]:
    """Start a workflow, and wait until the fork server trains its long head."""
    run = write_study(folder, ce=HEADS["ce"], long=LONG)
    process = start(folder, *executor, "--configfile", "study.yaml", "--until", "train_head")
    wait(lambda: training(folder, run), process)
    forked = forked_process(folder, run)
    assert forked is not None
    return process, run, forked


@pytest.mark.parametrize("executor", [CORES, LOCAL_CLUSTER], ids=["cores", "local cluster"])
def test_a_signal_to_the_workflow_process_stops_its_forked_heads(tmp_path, start, executor):
    process, run, forked = start_training(start, tmp_path, *executor)
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=SECONDS)[0]
    assert "Run the same command to resume." in output and "Traceback" not in output, output
    assert last_event(run)["reason"] == "SIGTERM"
    assert not running([forked])


def test_forked_heads_and_the_server_end_with_a_killed_workflow_process(tmp_path, start):
    process, run, forked = start_training(start, tmp_path, *CORES)
    server = forked.parent()
    assert server is not None
    process.kill()
    wait(lambda: not running([forked, server]), seconds=SECONDS)
    assert last_event(run)["reason"] == f"workflow process {process.pid} exited"
