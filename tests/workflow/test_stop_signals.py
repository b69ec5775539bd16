"""SIGINT and SIGTERM stop the workflow process and its local jobs. A second signal ends it at once."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mem.runs.folder import RunFolder
from mem.tracking.log import read_events
from tests.waiting import wait
from tests.workflow.test_interrupted_workflow import (
    ARGUMENTS,
    has_checkpoint,
    pretrain_folder,
    training_processes,
)

LOCAL_CLUSTER = ("--executor", "submitit", "--submitit-cluster", "local", "--jobs", "1")
SECONDS = 40
"""Time limit on a busy machine. A stopped training saves within a second; unstopped, it takes minutes."""
Start = Callable[..., subprocess.Popen]


def start_training(start: Start, folder: Path, *arguments: str, **environment: str) -> subprocess.Popen:
    """Start the workflow, and wait until the pretraining has saved its first checkpoint."""
    process = start(folder, *ARGUMENTS, *arguments, **environment)
    wait(lambda: has_checkpoint(folder), process)
    return process


def ends(folder: Path) -> list[dict]:
    """Return the "end" events of the pretraining."""
    return [event for event in read_events(RunFolder(pretrain_folder(folder)).log) if event["event"] == "end"]


@pytest.mark.parametrize(
    ("executor", "number"),
    [((), signal.SIGTERM), ((), signal.SIGINT), (LOCAL_CLUSTER, signal.SIGTERM)],
    ids=["cores-SIGTERM", "cores-SIGINT", "local cluster-SIGTERM"],
)
def test_a_signal_to_the_workflow_process_alone_stops_its_jobs(tmp_path, start, executor, number):
    process = start_training(start, tmp_path, *executor)
    process.send_signal(number)
    output = process.communicate(timeout=SECONDS)[0]
    assert process.returncode not in (0, None)
    assert "Traceback" not in output, output
    assert "Run the same command to resume." in output
    assert [end["status"] for end in ends(tmp_path)] == ["stopped"]
    assert ends(tmp_path)[0]["reason"] == "SIGTERM"
    assert training_processes(tmp_path) == []


@pytest.mark.parametrize("executor", [(), LOCAL_CLUSTER], ids=["cores", "local cluster"])
def test_ctrl_c_twice_ends_the_workflow_process_at_once(tmp_path, start, executor):
    process = start_training(start, tmp_path, *executor)
    (training,) = training_processes(tmp_path)
    training.suspend()  # so that the workflow process waits for it
    os.killpg(process.pid, signal.SIGINT)
    time.sleep(2)
    assert process.poll() is None
    began = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    process.wait(timeout=SECONDS)
    assert time.monotonic() - began < 10
    training.resume()
    output = process.communicate(timeout=SECONDS)[0]
    assert process.returncode == 128 + signal.SIGINT
    assert "Traceback" not in output, output
    assert "mem: exited at once." in output
    assert "Run the same command to resume." in output
    wait(lambda: not training_processes(tmp_path), seconds=SECONDS)


def test_ctrl_c_while_snakemake_plans_the_jobs_prints_one_line(tmp_path, start):
    study = tmp_path / "study.yaml"
    os.mkfifo(study)  # reading it waits
    process = start(tmp_path, "--cores", "1", "--config", f"study={study}")
    writer = os.open(study, os.O_WRONLY)  # returns when Snakemake reads the file
    try:
        os.killpg(process.pid, signal.SIGINT)
        output = process.communicate(timeout=SECONDS)[0]
    finally:
        os.close(writer)
    assert "Traceback" not in output, output
    assert output.rstrip().endswith("mem: interrupted")
    assert process.returncode != 0


def test_a_stopped_workflow_process_does_not_wait_long_for_a_tracking_server(tmp_path, start):
    process = start_training(start, tmp_path, MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=SECONDS)[0]
    assert "The mirror continues to send the remaining points to MLflow" in output
    assert "mem track sync" in output
