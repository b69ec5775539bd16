"""Stages of the mini study, run as a user would."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from mem.config.load import load_study
from mem.runs.dag import Run, study_runs
from tests.conftest import REPOSITORY

MEM = [sys.executable, "-m", "mem.cli"]
MINI = REPOSITORY / "tests" / "mini.yaml"


def mem(folder: Path, *arguments: str, check: bool = True, **options) -> subprocess.CompletedProcess:
    done = subprocess.run(
        [*MEM, *arguments], cwd=folder, capture_output=True, text=True, timeout=300, check=False, **options
    )
    assert not check or done.returncode == 0, done.stderr
    return done


def run_here(folder: Path, words: list[str]) -> None:
    from mem.cli.main import main

    before = Path.cwd()
    os.chdir(folder)
    try:
        assert main(words) == 0, words
    finally:
        os.chdir(before)


def run_of(stage: str, variant: str | None = None, changes: dict | None = None) -> Run:
    return next(
        run
        for run in study_runs(load_study([MINI], changes))
        if run.stage == stage and (variant is None or run.labels["variant"] == variant)
    )


def refusal(folder: Path, *arguments: str, status: int = 2, **options) -> str:
    done = mem(folder, *arguments, check=False, **options)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr
