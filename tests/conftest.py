"""Test tiers, scheduling, and fixtures that several folders share."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
import yaml
from xdist.scheduler import LoadFileScheduling

from mem.config import Study
from mem.config.load import load_study
from tests.tiers import TIERS, ProcessGuard, mark_by_folder, tier_of

if TYPE_CHECKING:
    from cluster.throwaway import ThrowawaySlurm

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# A shell starts background jobs with SIGINT ignored, and child processes inherit this. Tests of Ctrl-C need a handler.
signal.signal(signal.SIGINT, signal.default_int_handler)
REPOSITORY = Path(__file__).parent.parent


SLURM_FILES = (
    "test_slurm.py",
    "test_slurm_interruptions.py",
    "test_slurm_submission.py",
    "test_slurm_jobs.py",
    "test_slurm_bundles.py",
    "test_slurm_heads.py",
    "test_throwaway.py",
    "test_doctor_on_slurm.py",
)
"""Test files that use the machine's only SLURM instance. One xdist worker runs them one after the other."""
GUARD = ProcessGuard()


class SlurmInOneWorker(LoadFileScheduling):
    """Schedule each file on one worker, and all files that use SLURM on the same worker.

    xdist 3.8 does not detect its built-in groups under pytest 9.2.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return "slurm" if Path(file).name in SLURM_FILES else file


def pytest_configure(config: pytest.Config) -> None:
    """Give all workers one folder for the costs that `mem plan` counts, instead of that in the user's home folder."""
    if not hasattr(config, "workerinput"):
        folder = tempfile.mkdtemp(prefix="mem-plan-")
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
        os.environ["MEM_PLAN_CACHE"] = folder


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> SlurmInOneWorker:
    """Make xdist use `SlurmInOneWorker`."""
    return SlurmInOneWorker(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by folder and run the slow tiers first, so that all workers are busy until the end."""
    for item in items:
        mark_by_folder(item)
        if tier_of(item) == "slurm":
            # SLURM's timers and a busy machine can delay a test. Allow one rerun, which pytest reports.
            item.add_marker(pytest.mark.flaky(reruns=1))
        if tier_of(item) == "gpu" and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
    unlisted = {item.path.name for item in items if tier_of(item) == "slurm"} - set(SLURM_FILES)
    if unlisted:
        raise pytest.UsageError(f"Files with the marker slurm are not in SLURM_FILES of tests/conftest.py: {unlisted}")
    order = (*TIERS, "unit")
    items.sort(key=lambda item: order.index(tier_of(item)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, object, object]:
    """Refuse processes in the fixtures of unit tests."""
    with GUARD.watching(item):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Refuse processes in unit tests. The teardown is not watched, because it may end fixtures of other tests."""
    with GUARD.watching(item):
        return (yield)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Use one thread, because test workers would compete for cores."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def slurm() -> Iterator[ThrowawaySlurm]:
    """A real SLURM instance. It is stopped after the tests unless it was already running before them."""
    from cluster.throwaway import ThrowawaySlurm, Unavailable

    with ExitStack() as stack:
        try:
            running = stack.enter_context(ThrowawaySlurm())
        except Unavailable as reason:
            pytest.skip(str(reason))
        yield running


@pytest.fixture
def mini_values() -> dict:
    """The smallest study with every stage, as nested mappings."""
    return yaml.safe_load((REPOSITORY / "tests" / "mini.yaml").read_text())


@pytest.fixture
def mini() -> Study:
    """The smallest study with every stage."""
    return load_study([REPOSITORY / "tests" / "mini.yaml"])


@pytest.fixture
def file_limit() -> Callable[[int], AbstractContextManager[None]]:
    """Limit the size of files to simulate a full disk. write() fails both at this limit and on a full disk."""

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
