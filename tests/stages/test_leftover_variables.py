"""Variables of several ranks that remain in the environment of a stage that was started as one process."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mem.config.load import load_study
from mem.runs.dag import study_runs
from mem.runs.run_config import write_configs
from tests.conftest import REPOSITORY
from tests.stages.running import find_run, mini_run

LEFTOVER = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}


def start(folder: Path, stage: str) -> subprocess.Popen:
    """Start a stage of the mini study as one process, in an environment with the variables of rank 0 of 2."""
    study = load_study([REPOSITORY / "tests" / "mini.yaml"])
    write_configs([find_run(study_runs(study), stage)], study, folder)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    config = folder / mini_run(stage).folder / "config.yaml"
    return subprocess.Popen(
        [sys.executable, "-m", "mem.cli", stage, "--config", str(config)],
        cwd=folder,
        env={**os.environ, **LEFTOVER, "MASTER_PORT": port},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_a_stage_that_runs_as_one_process_ignores_them(tmp_path):
    process = start(tmp_path, "convert")
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output
    assert (tmp_path / mini_run("convert").folder / "run.json").is_file()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stage_that_waits_for_a_rank_names_it_and_ends_on_a_signal(tmp_path, number):
    process = start(tmp_path, "pretrain")
    assert process.stdout is not None
    lines = iter(process.stdout.readline, "")
    # Without a name for the loopback address, torch prints a warning first.
    message = next((line for line in lines if line.startswith("Rank 0 of 2 waits at 127.0.0.1:")), "")
    assert "for rank 1. Ranks present: 0. If only one process was started, unset WORLD_SIZE, which is 2." in message
    began = time.monotonic()
    process.send_signal(number)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 143, output
    assert f"({number.name})" in output
    assert time.monotonic() - began < 30
