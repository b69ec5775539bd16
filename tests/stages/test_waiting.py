"""Two processes of the same run: the second waits for the first. Time spent waiting is not part of the cost."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mem.config.load import load_study
from mem.runs.outputs import OUTPUT_FILES
from mem.runs.run_config import write_configs
from mem.tracking.log import read_events
from tests.stages.running import MINI, mini_run
from tests.waiting import wait

PROGRAM = """
import sys, time
from pathlib import Path
from mem.jobs.job import run_stage

stage, config, *outputs = sys.argv[1:]

def compute(job):
    print("started", flush=True)
    while not Path("finish").exists():
        time.sleep(0.05)
    for name in outputs:
        (job.folder.path / name).touch()
    return {}

sys.exit(run_stage(stage, compute, Path(config), None, Path("stage.log"), {}))
"""
"""A stage that finishes when the file `finish` exists, and then writes the given files."""
TAKEN = "another process finished this run in the meantime. Nothing is left to do."
OUTPUTS = OUTPUT_FILES["convert"]

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def run(tmp_path) -> Path:
    """The folder of a run that has not started."""
    convert = mini_run("convert")
    write_configs([convert], load_study([MINI]), tmp_path)
    return tmp_path / convert.folder


@pytest.fixture
def start(run, tmp_path) -> Iterator[Start]:
    """Function that starts a process of the run. The processes are killed after the test."""
    processes: list[subprocess.Popen[str]] = []

    def start_stage(*outputs: str, config: Path = run, **environment: str) -> subprocess.Popen[str]:
        stage = config.name.rpartition("-")[0]
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, stage, str(config), *outputs],
            cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ | environment,
        )  # fmt: skip
        processes.append(process)
        return process

    yield start_stage
    for process in processes:
        process.kill()
        process.communicate()


def wait_until_started(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"


def wait_until_started_after_waiting(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline().startswith("Waiting for process")
    wait_until_started(process)


def wait_until_waiting(folder: Path, process: subprocess.Popen[str]) -> None:
    wait(lambda: "Waiting for process" in (folder / "stage.log").read_text(), process)


def finish(folder: Path, *processes: subprocess.Popen[str]) -> list[str]:
    """Let the processes finish, and return their outputs."""
    (folder / "finish").touch()
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), outputs
    return outputs


def events(run: Path, kind: str) -> list[dict]:
    return [event for event in read_events(run / "log.jsonl") if event["event"] == kind]


def test_a_stage_takes_the_run_that_another_process_finished_while_it_waited(run, start, tmp_path):
    first = start(*OUTPUTS)
    wait_until_started(first)
    second = start(*OUTPUTS)
    wait_until_waiting(tmp_path, second)
    output = finish(tmp_path, first, second)[1]
    assert output.count(TAKEN) == 1
    assert "started" not in output
    assert json.loads((run / "run.json").read_text())["attempts"] == len(events(run, "start")) == 1
    assert not (run / "log-1.jsonl").exists()
    record = (run / "run.json").read_bytes()

    third = start(*OUTPUTS)  # without waiting, a finished run is repeated
    assert "started" in finish(tmp_path, third)[0]
    assert (run / "run.json").read_bytes() != record
    assert (run / "log-1.jsonl").exists()


def test_every_rank_of_a_waiting_stage_takes_the_finished_run(run, start, tmp_path):
    pretrain = mini_run("pretrain")
    write_configs([pretrain], load_study([MINI]), tmp_path)
    record = {"stage": "convert", "key": mini_run("convert").key, "settings": {}, "inputs": {}}
    (run / "run.json").write_text(json.dumps(record))  # the input of pretrain
    for name in OUTPUTS:
        (run / name).touch()
    run, outputs = tmp_path / pretrain.folder, OUTPUT_FILES["pretrain"]
    first = start(*outputs, config=run)
    wait_until_started(first)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    world = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ranks = [start(*outputs, config=run, RANK=str(rank), LOCAL_RANK=str(rank), **world) for rank in range(2)]
    wait_until_waiting(tmp_path, ranks[0])
    printed = finish(tmp_path, first, *ranks)[1:]
    assert [output.count(TAKEN) for output in printed] == [1, 0]
    assert not any("started" in output for output in printed)
    assert len(events(run, "start")) == 1


def test_a_finished_run_whose_outputs_were_deleted_is_repeated(run, start, tmp_path):
    first = start(*OUTPUTS[1:])
    wait_until_started(first)
    second = start(*OUTPUTS)
    wait_until_waiting(tmp_path, second)
    output = finish(tmp_path, first, second)[1]
    assert "started" in output
    assert TAKEN not in output
    assert all((run / name).exists() for name in OUTPUTS)


def test_the_seconds_of_a_run_include_a_killed_attempt_but_not_the_wait_for_the_lock(run, start, tmp_path):
    first = start(*OUTPUTS, MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL="0.2")
    wait_until_started(first)
    second = start(*OUTPUTS)
    wait_until_waiting(tmp_path, second)
    waited = len(events(run, "metrics")) + 3  # the second process waits for at least two more measurements
    wait(lambda: len(events(run, "metrics")) > waited, first)
    first.kill()
    first.wait()
    killed = list(read_events(run / "log.jsonl"))
    wait_until_started_after_waiting(second)
    finish(tmp_path, second)

    record = json.loads((run / "run.json").read_text())
    (_, second_start), (end,) = events(run, "start"), events(run, "end")
    one, two = record["attempt_seconds"]
    assert one == pytest.approx(killed[-1]["time"] - killed[1]["time"], abs=0.001)
    assert one > 0
    assert 0 <= two <= end["time"] - second_start["time"] + 0.001
    assert record["seconds"] == pytest.approx(one + two, abs=0.001)
    assert (end["seconds"], end["attempts"]) == (record["seconds"], record["attempts"]) == (record["seconds"], 2)
