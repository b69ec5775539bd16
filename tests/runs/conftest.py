"""A working folder with finished runs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mem.config.load import load_study
from mem.runs.run_config import write_configs
from tests.runs.mini_runs import CHANGED, MINI, runs_of


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Path:
    """A working folder with the finished runs of the mini study, and of one with another head."""
    root = tmp_path_factory.mktemp("finished")
    for changes in ({}, CHANGED):
        runs = runs_of(changes)
        write_configs(runs, load_study([MINI], changes), root)
        for run in runs:
            (root / run.folder / "run.json").write_text("{}")
            (root / run.folder / "head.json").write_text("x" * 1000)
    (root / "config").mkdir()
    (root / "config/mini.yaml").write_text(MINI.read_text())
    return root


@pytest.fixture
def root(finished, tmp_path, monkeypatch) -> Path:
    """A copy of the working folder, which is the current folder."""
    folder = tmp_path / "work"
    shutil.copytree(finished, folder)
    monkeypatch.chdir(folder)
    return folder
