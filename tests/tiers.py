"""Test tiers: unit, stage, workflow, slurm and gpu (see README.md in this folder).

A test's marker specifies its tier. Tests in `stages/` and `workflow/` have the tier of their folder. Tests without a
marker are unit tests and must not start processes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

TIERS = ("slurm", "workflow", "stage", "gpu")
FOLDERS = {"stages": "stage", "workflow": "workflow"}
ROOT = Path(__file__).parent
_PROCESS_EVENTS = {"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.exec", "os.system"}


def tier_of(item: pytest.Item) -> str:
    """Return the tier of a test: the first of its markers in `TIERS`, or `unit`."""
    return next((tier for tier in TIERS if item.get_closest_marker(tier)), "unit")


def mark_by_folder(item: pytest.Item) -> None:
    """Mark a test that has no tier with the tier of its folder."""
    if tier_of(item) == "unit" and item.path.is_relative_to(ROOT):
        folder = item.path.relative_to(ROOT).parts[0]
        if folder in FOLDERS:
            item.add_marker(FOLDERS[folder])


class ProcessGuard:
    """Raises an error if a process is started while a unit test runs."""

    def __init__(self) -> None:
        self.active = False
        sys.addaudithook(self._audit)

    @contextmanager
    def watching(self, item: pytest.Item) -> Iterator[None]:
        """Within this context, the start of a process is an error if `item` is a unit test of this folder."""
        self.active = tier_of(item) == "unit" and item.path.is_relative_to(ROOT)
        try:
            yield
        finally:
            self.active = False

    def _audit(self, event: str, args: tuple[object, ...]) -> None:
        if self.active and event in _PROCESS_EVENTS:
            raise RuntimeError(f"A unit test starts a process ({event}: {args[:2]}). Mark the test `stage`.")
