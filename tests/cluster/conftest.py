"""The plugin's `workflow` fixture, for tests of the plugin on a real SLURM cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from workflow_runner import Workflow, workflow_factory


@pytest.fixture
def workflow(tmp_path: Path) -> Iterator[Callable[..., Workflow]]:
    """A function that creates a workflow in a new folder."""
    with workflow_factory(tmp_path) as create:
        yield create
