"""Stages that are stopped, killed or asked to save, and go on; torn checkpoints."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from pathlib import Path

from mem.config.load import load_study
from mem.runs.dag import study_runs
from mem.runs.run_config import write_configs
from mem.tracking.log import read_curve, read_events
from mem.train.checkpoints import Checkpoints
from tests.stages.running import MEM, MINI, run_of


def slow_pretraining(folder: Path, study: Path) -> Path:
    """A pretraining that takes a while, configured in `folder`; its images are those of the mini study."""
    changes = {"pretrain": {"epochs": 2000}}
    write_configs(study_runs(load_study([MINI], changes)), load_study([MINI], changes), folder)
    images = run_of("convert").folder
    shutil.copytree(study / images, folder / images, dirs_exist_ok=True)
    return folder / run_of("pretrain", changes=changes).folder


def started(folder: Path, run: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [*MEM, "pretrain", "--config", str(run / "config.yaml"), "--log", "log/pretrain.log"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for_checkpoint(run: Path, process: subprocess.Popen, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not list((run / "checkpoints").glob("*.json")):
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def output_of(process: subprocess.Popen) -> str:
    return process.communicate(timeout=60)[0]


def test_a_stop_saves_says_so_and_the_next_start_goes_on(study, tmp_path):
    run = slow_pretraining(tmp_path, study)
    first = started(tmp_path, run)
    wait_for_checkpoint(run, first)
    first.send_signal(signal.SIGTERM)
    said = output_of(first)
    assert first.returncode == 143
    assert "and stopped, as asked. (SIGTERM) The same command goes on from there." in said
    step = int(said.split("Saved at step ")[1].split()[0])
    assert not (run / "run.json").exists()

    second = started(tmp_path, run)
    deadline = time.monotonic() + 60
    while "Going on from" not in (tmp_path / "log" / "pretrain.log").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    second.send_signal(signal.SIGTERM)
    said = output_of(second)
    assert f"Going on from the checkpoint at step {step} of" in said
    resumed = [event["step"] for event in read_events(run / "log.jsonl") if event["event"] == "resumed"]
    assert resumed == [step]
    logged = [step for step, _ in read_curve(run / "log.jsonl", "train/loss")]
    assert logged == sorted(set(logged))


def test_a_killed_trainer_is_followed_by_one_that_goes_on_and_no_two_work_at_once(study, tmp_path):
    run = slow_pretraining(tmp_path, study)
    first = started(tmp_path, run)
    wait_for_checkpoint(run, first)
    rival = started(tmp_path, run)
    while "Waiting for process" not in (tmp_path / "log" / "pretrain.log").read_text():
        assert rival.poll() is None
        time.sleep(0.05)
    first.kill()
    output_of(first)
    while "Going on from the checkpoint" not in (tmp_path / "log" / "pretrain.log").read_text():
        assert rival.poll() is None
        time.sleep(0.05)
    rival.send_signal(signal.SIGINT)
    assert "(SIGINT) The same command goes on from there." in output_of(rival)


def test_a_checkpoint_on_request_does_not_stop_the_training(study, tmp_path):
    run = slow_pretraining(tmp_path, study)
    process = started(tmp_path, run)
    wait_for_checkpoint(run, process)
    before = max(p.name for p in (run / "checkpoints").glob("*.json"))
    process.send_signal(signal.SIGUSR2)
    deadline = time.monotonic() + 30
    while max(p.name for p in (run / "checkpoints").glob("*.json")) == before:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.kill()
    output_of(process)


def test_a_torn_checkpoint_is_named_and_the_older_one_used(study, tmp_path):
    run = slow_pretraining(tmp_path, study)
    process = started(tmp_path, run)
    deadline = time.monotonic() + 90
    while len(list((run / "checkpoints").glob("*.json"))) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.kill()
    output_of(process)
    notes = sorted((run / "checkpoints").glob("*.json"))
    newest = notes[-1].with_suffix(".pt")
    newest.write_bytes(newest.read_bytes()[:1000])
    said: list[str] = []
    found = Checkpoints(run / "checkpoints", json.loads(notes[0].read_text())["key"], 1, said.append)._newest_valid()
    assert found == notes[-2].with_suffix(".pt")
    assert str(newest) in said[0]
