"""Fixture with the outputs of the mini study, the smallest study with every stage."""

from __future__ import annotations

from pathlib import Path

import pytest

from mem.config.load import load_study
from mem.runs.dag import study_runs
from tests.stages.running import MINI, call_mem, keep_finished


@pytest.fixture(scope="session")
def study(tmp_path_factory) -> Path:
    """A read-only folder in which every stage of the mini study was run with the commands that `mem runs` prints."""
    folder = tmp_path_factory.mktemp("study")
    for command in call_mem(folder, "runs", str(MINI), "--commands").out.splitlines():
        program, *arguments = command.split()
        assert program == "mem"
        call_mem(folder, *arguments)
    for run in study_runs(load_study([MINI])):
        keep_finished(folder, run)
    return folder
