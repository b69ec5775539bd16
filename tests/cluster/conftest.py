"""Workflows of a rule or two."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cluster.running import Workflow


@pytest.fixture
def workflow(tmp_path: Path) -> Iterator[Callable[..., Workflow]]:
    """Makes a workflow in a folder; whatever it started is gone after the test."""
    made: list[Workflow] = []

    def make(snakefile: str, **environment: str) -> Workflow:
        name = f"workflow-{uuid.uuid4().hex[:8]}"  # SLURM's database may remember an earlier run of the same test
        made.append(Workflow(tmp_path / name, snakefile, environment))
        return made[-1]

    yield make
    for each in made:
        each.clean_up()
