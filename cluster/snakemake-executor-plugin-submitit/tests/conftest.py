"""The fixture for tests that run workflows."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fake_commands import FakeCommands
from workflow_runner import Workflow, workflow_factory

# Shells start background jobs with SIGINT ignored, and child processes inherit this. Tests of Ctrl-C need the signal.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def workflow(tmp_path: Path) -> Iterator[Callable[..., Workflow]]:
    """A function that creates a workflow in a new folder."""
    with workflow_factory(tmp_path) as create:
        yield create


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeCommands:
    """Fake SLURM commands that come first on PATH."""
    fake = FakeCommands(tmp_path / "commands")
    monkeypatch.setenv("PATH", fake.path())
    return fake
