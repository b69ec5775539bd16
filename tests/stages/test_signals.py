"""What signals do to a stage, in and outside a training."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mem.config.load import load_study
from mem.errors import Stopped
from mem.jobs.signals import SAVED_VARIABLE, WORKFLOW_VARIABLE, StopSignals
from mem.runs.dag import study_runs
from mem.runs.run_config import write_configs
from mem.tracking.log import read_events
from tests.conftest import REPOSITORY

MINI = REPOSITORY / "tests" / "mini.yaml"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_outside_a_training_a_stop_is_raised_at_once(number):
    with StopSignals() as stop, pytest.raises(Stopped, match="Stopped, as asked"):
        os.kill(os.getpid(), number)
        time.sleep(5)
    assert stop.reason == number.name


def test_in_a_training_a_stop_is_noted():
    with StopSignals() as stop, stop.deferred():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested
        assert stop.reason == "SIGTERM"


def test_a_second_interrupt_ends_everything():
    with StopSignals() as stop, stop.deferred():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_in_a_training_usr2_asks_for_a_checkpoint_once():
    with StopSignals() as stop, stop.deferred():
        os.kill(os.getpid(), signal.SIGUSR2)
        assert (stop.take_save(), stop.take_save()) == (True, False)
        assert not stop.requested


def test_outside_a_training_usr2_is_ignored():
    with StopSignals() as stop:
        assert signal.getsignal(signal.SIGUSR2) is signal.SIG_IGN
        os.kill(os.getpid(), signal.SIGUSR2)
        with stop.deferred():
            assert not stop.take_save()
        assert signal.getsignal(signal.SIGUSR2) is signal.SIG_IGN


def test_whoever_asked_for_a_checkpoint_is_told_by_a_file(tmp_path, monkeypatch):
    monkeypatch.delenv(SAVED_VARIABLE, raising=False)
    StopSignals().saved()
    monkeypatch.setenv(SAVED_VARIABLE, str(tmp_path / "saved"))
    StopSignals().saved()
    assert (tmp_path / "saved").exists()


def test_handlers_are_put_back():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)]
    with StopSignals():
        pass
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)] == before


SLOW_CONVERSION = """
import sys, time
from pathlib import Path
from mem.jobs.job import run_stage

def work(job):
    print("at work", flush=True)
    time.sleep(60)

sys.exit(run_stage("convert", work, Path(sys.argv[1]), None, None, {}))
"""


def slow_conversion(folder: Path, **environment: str) -> tuple[subprocess.Popen, Path]:
    """A stage that is no training, at work; and its run folder."""
    run = next(run for run in study_runs(load_study([MINI])) if run.stage == "convert")
    write_configs([run], load_study([MINI]), folder)
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_CONVERSION, str(folder / run.folder)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, **environment},
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "at work\n"
    return process, folder / run.folder


def test_a_stage_that_is_no_training_stops_at_once_and_can_start_again(tmp_path):
    process, folder = slow_conversion(tmp_path)
    process.send_signal(signal.SIGUSR2)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=30)[0]
    assert said == "Stopped, as asked; nothing half-written was left. (SIGTERM) The same command goes on from there.\n"
    assert process.returncode == 143
    ends = [event for event in read_events(folder / "log.jsonl") if event["event"] == "end"]
    assert [(end["status"], end["reason"]) for end in ends] == [("stopped", "SIGTERM")]


def test_a_stage_that_is_no_training_ends_with_its_head(tmp_path):
    import socket

    import psutil

    head = subprocess.Popen(["sleep", "60"])
    began = psutil.Process(head.pid).create_time()
    described = f"{socket.gethostname()} {head.pid} {began} {os.environ.get('SLURM_JOB_ID', '-')}"
    process, _ = slow_conversion(tmp_path, **{WORKFLOW_VARIABLE: described})
    head.kill()
    head.wait()
    said = process.communicate(timeout=30)[0]
    assert f"(the end of the workflow's head (process {head.pid}))" in said
    assert process.returncode == 143
