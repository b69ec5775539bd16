"""The fixture of the plugin's tests, for the tests of the plugin on a real SLURM."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from workflow_runner import Workflow, workflow_factory


@pytest.fixture
def workflow(tmp_path: Path) -> Iterator[Callable[..., Workflow]]:
    """Creates a workflow in a folder of its own."""
    with workflow_factory(tmp_path) as create:
        yield create
