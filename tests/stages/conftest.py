"""The mini study, run once for all tests that look at it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.stages.running import MINI, mem, run_here


@pytest.fixture(scope="session")
def study(tmp_path_factory) -> Path:
    """A folder in which every stage of the mini study was run by the commands that `mem runs` prints."""
    folder = tmp_path_factory.mktemp("study")
    commands = mem(folder, "runs", str(MINI), "--commands").stdout.splitlines()
    for command in commands:
        # In this process, where shapes are checked; the command line itself is tested with the others below.
        words = command.split()
        assert words[0] == "mem"
        run_here(folder, words[1:])
    return folder
