"""Fixtures that several folders of tests share."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
import yaml
from xdist.scheduler import LoadFileScheduling

from mem.config import Study
from mem.config.load import load_study

if TYPE_CHECKING:
    from cluster.throwaway import ThrowawaySlurm

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
REPOSITORY = Path(__file__).parent.parent


SLURM_FILES = (
    "test_slurm.py",
    "test_slurm_interruptions.py",
    "test_slurm_jobs.py",
    "test_throwaway.py",
    "test_doctor.py",
)
LONGEST_FIRST = (
    *SLURM_FILES,
    "test_digits_lt.py",
    "test_heads_die.py",
    "test_stages.py",
    "test_interruptions.py",
    "test_distributed.py",
)


class ByFileAndSlurm(LoadFileScheduling):
    """A file's tests stay together, and so do all files that use the one real SLURM of the machine.

    (xdist 3.8 has groups for this, which pytest 9.2 does not let it see.)
    """

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return "slurm" if Path(file).name in SLURM_FILES else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFileAndSlurm:
    """Tell xdist how to spread the tests."""
    return ByFileAndSlurm(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take minutes come first, so that two workers are busy to the end."""
    stray = {item.path.name for item in items if item.get_closest_marker("slurm")} - set(SLURM_FILES)
    if stray:
        raise pytest.UsageError(f"Tests with the marker slurm outside of SLURM_FILES in tests/conftest.py: {stray}")
    for item in items:
        if item.get_closest_marker("slurm"):
            # SLURM acts by its own clocks, and a busy machine by none: a second try counts, and is reported as one.
            item.add_marker(pytest.mark.flaky(reruns=1))
    ranks = {name: rank for rank, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: ranks.get(item.path.name, len(ranks)))


@pytest.fixture(scope="session", autouse=True)
def two_threads() -> None:
    """The same rounding on every machine that has two cores."""
    torch.set_num_threads(2)


@pytest.fixture(scope="session")
def slurm() -> Iterator[ThrowawaySlurm]:
    """A real SLURM; it stays up where it was up before the tests."""
    from cluster.throwaway import ThrowawaySlurm, Unavailable

    with ExitStack() as stack:
        try:
            running = stack.enter_context(ThrowawaySlurm())
        except Unavailable as reason:
            pytest.skip(str(reason))
        yield running


@pytest.fixture
def mini_values() -> dict:
    """The smallest study that does everything, as nested mappings."""
    return yaml.safe_load((REPOSITORY / "tests" / "mini.yaml").read_text())


@pytest.fixture
def mini() -> Study:
    """The smallest study that does everything."""
    return load_study([REPOSITORY / "tests" / "mini.yaml"])


@pytest.fixture
def file_limit() -> Callable[[int], AbstractContextManager[None]]:
    """No file may grow beyond so many bytes: stands for a full disk, since write() fails in the same place."""

    @contextmanager
    def limited(size: int) -> Iterator[None]:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, handler)

    return limited
