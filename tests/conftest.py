"""Fixtures that several folders of tests share."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
import torch
import yaml

from mem.config import Study
from mem.study import load_study

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
REPOSITORY = Path(__file__).parent.parent


LONGEST_FIRST = ("test_digits_lt.py", "test_heads_die.py", "test_stages.py", "test_distributed.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take minutes come first, so that two workers are busy to the end."""
    ranks = {name: rank for rank, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: ranks.get(item.path.name, len(ranks)))


@pytest.fixture(scope="session", autouse=True)
def two_threads() -> None:
    """The same rounding on every machine that has two cores."""
    torch.set_num_threads(2)


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
