"""Stages that run as processes, are stopped, killed or requested to save a checkpoint, and resume afterwards."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from mem.config.load import load_study
from mem.jobs.signals import SAVED_VARIABLE, WORKFLOW_VARIABLE
from mem.runs.dag import study_runs
from mem.runs.run_config import write_configs
from mem.tracking.log import read_curve, read_events
from mem.train.checkpoints import Checkpoints
from tests.stages.running import MEM, MINI, mini_run
from tests.waiting import wait


def configure_long_pretraining(folder: Path, study: Path) -> Path:
    """Configure a pretraining run with many epochs on the images of the mini study, and return its run folder."""
    changes = {"pretrain": {"epochs": 2000}}
    write_configs(study_runs(load_study([MINI], changes)), load_study([MINI], changes), folder)
    images = mini_run("convert").folder
    shutil.copytree(study / images, folder / images, dirs_exist_ok=True)
    return folder / mini_run("pretrain", changes=changes).folder


def start_pretraining(folder: Path, run: Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*MEM, "pretrain", "--config", str(run / "config.yaml"), "--log", "log/pretrain.log"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **environment},
    )


def wait_for_message(folder: Path, text: str, process: subprocess.Popen[str]) -> None:
    wait(lambda: text in (folder / "log" / "pretrain.log").read_text(), process)


def checkpoints(run: Path) -> list[str]:
    """Return the names of the description files of all complete checkpoints, oldest first."""
    return sorted(path.name for path in (run / "checkpoints").glob("*.json"))


def output_of(process: subprocess.Popen[str]) -> str:
    return process.communicate(timeout=60)[0]


def test_a_stopped_training_saves_and_the_same_command_resumes(study, tmp_path):
    run = configure_long_pretraining(tmp_path, study)
    first = start_pretraining(tmp_path, run)
    wait(lambda: checkpoints(run), first)
    first.send_signal(signal.SIGTERM)
    output = output_of(first)
    assert first.returncode == 143
    assert "and stopped on request. (SIGTERM) Run the same command to resume." in output
    step = int(output.split("Saved at step ")[1].split()[0])
    assert not (run / "run.json").exists()

    second = start_pretraining(tmp_path, run)
    wait_for_message(tmp_path, "Resuming from", second)
    second.send_signal(signal.SIGTERM)
    assert f"Resuming from the checkpoint at step {step} of" in output_of(second)
    resumed = [event["step"] for event in read_events(run / "log.jsonl") if event["event"] == "resumed"]
    assert resumed == [step]
    logged = [step for step, _ in read_curve(run / "log.jsonl", "train/loss")]
    assert logged == sorted(set(logged))


def test_a_training_starts_again_if_its_images_were_converted_again(study, tmp_path):
    run = configure_long_pretraining(tmp_path, study)
    first = start_pretraining(tmp_path, run)
    wait(lambda: checkpoints(run), first)
    first.send_signal(signal.SIGTERM)
    output_of(first)
    record = tmp_path / mini_run("convert").folder / "run.json"
    content = json.loads(record.read_text())
    record.write_text(json.dumps(content | {"started": content["started"] + 100}))
    earlier = checkpoints(run)

    second = start_pretraining(tmp_path, run)
    wait_for_message(tmp_path, "Starting from the beginning, because these inputs were computed again: images.", second)
    wait(lambda: checkpoints(run) and checkpoints(run) != earlier, second)
    second.send_signal(signal.SIGTERM)
    assert "Resuming" not in output_of(second)
    logged = [step for step, _ in read_curve(run / "log.jsonl", "train/loss")]
    assert logged == sorted(set(logged))


def test_a_second_process_waits_for_the_run_folder_and_resumes_when_the_first_is_killed(study, tmp_path):
    run = configure_long_pretraining(tmp_path, study)
    first = start_pretraining(tmp_path, run)
    wait(lambda: checkpoints(run), first)
    second = start_pretraining(tmp_path, run)
    wait_for_message(tmp_path, "Waiting for process", second)
    first.kill()
    output_of(first)
    wait_for_message(tmp_path, "Resuming from the checkpoint", second)
    second.send_signal(signal.SIGINT)
    assert "(SIGINT) Run the same command to resume." in output_of(second)


@pytest.fixture(scope="module")
def killed_run(study, tmp_path_factory) -> tuple[Path, list[str], list[str]]:
    """Request a checkpoint during training, wait for the acknowledgement, and kill the process later.

    Return the run folder, the checkpoints before the request, and the checkpoints after the request.
    """
    folder = tmp_path_factory.mktemp("killed")
    run = configure_long_pretraining(folder, study)
    acknowledgment = folder / "saved"
    process = start_pretraining(folder, run, **{SAVED_VARIABLE: str(acknowledgment)})
    wait(lambda: len(checkpoints(run)) > 1, process)
    before = checkpoints(run)
    assert not acknowledgment.exists()
    process.send_signal(signal.SIGUSR2)
    wait(acknowledgment.exists, process)
    after = checkpoints(run)
    # Training continues and writes the next periodic checkpoint. `wait` fails if the process ends.
    wait(lambda: checkpoints(run)[-1] > after[-1], process)
    process.kill()
    output_of(process)
    return run, before, after


def test_a_requested_checkpoint_is_written_and_the_training_continues(killed_run):
    _, before, after = killed_run
    assert after[-1] > before[-1]


def test_a_truncated_checkpoint_is_named_and_the_older_one_is_used(killed_run, tmp_path):
    shutil.copytree(killed_run[0] / "checkpoints", tmp_path / "checkpoints")
    descriptions = sorted((tmp_path / "checkpoints").glob("*.json"))
    newest = descriptions[-1].with_suffix(".pt")
    newest.write_bytes(newest.read_bytes()[:1000])
    warnings: list[str] = []
    key = json.loads(descriptions[0].read_text())["key"]
    newest_valid = Checkpoints(tmp_path / "checkpoints", key, 1, warnings.append)._newest_valid()
    assert newest_valid == descriptions[-2].with_suffix(".pt")
    assert str(newest) in warnings[0]


# --- a stage without training ---------------------------------------------------------------------------------------

SLOW_CONVERSION = """
import sys, time
from pathlib import Path
from mem.jobs.job import run_stage

def convert(job):
    print("started", flush=True)
    time.sleep(60)

sys.exit(run_stage("convert", convert, Path(sys.argv[1]), None, None, {}))
"""


def start_conversion(folder: Path, **environment: str) -> tuple[subprocess.Popen[str], Path]:
    """Start a conversion and wait until it is running. Return the process and the run folder."""
    run = mini_run("convert")
    write_configs([run], load_study([MINI]), folder)
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_CONVERSION, str(folder / run.folder)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, **environment},
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    return process, folder / run.folder


def test_a_stage_without_a_training_stops_at_once(tmp_path):
    process, folder = start_conversion(tmp_path)
    process.send_signal(signal.SIGUSR2)
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=30)[0]
    assert output == ("Stopped on request. No incomplete output was left. (SIGTERM) Run the same command to resume.\n")
    assert process.returncode == 143
    ends = [event for event in read_events(folder / "log.jsonl") if event["event"] == "end"]
    assert [(end["status"], end["reason"]) for end in ends] == [("stopped", "SIGTERM")]
    assert ends[0]["peak_memory_gb"] > 0


def test_a_stage_stops_when_its_workflow_process_is_killed(tmp_path):
    workflow = subprocess.Popen(["sleep", "60"])
    started = psutil.Process(workflow.pid).create_time()
    description = f"{socket.gethostname()} {workflow.pid} {started} {os.environ.get('SLURM_JOB_ID', '-')}"
    process, _ = start_conversion(tmp_path, **{WORKFLOW_VARIABLE: description})
    workflow.kill()
    workflow.wait()
    output = process.communicate(timeout=30)[0]
    assert f"(workflow process {workflow.pid} exited)" in output
    assert process.returncode == 143
