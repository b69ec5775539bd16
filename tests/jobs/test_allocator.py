"""Memory that a process frees and gets again."""

from __future__ import annotations

import ctypes
import os
import resource
import subprocess
import sys

import pytest

from mem.jobs import allocator, job
from mem.jobs.allocator import keep_freed_memory
from tests.conftest import REPOSITORY
from tests.stages.running import MINI_VALUES, run_study

pytestmark = pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library is not glibc")

PROGRAM = """
import resource, sys
import torch
from mem.jobs.allocator import keep_freed_memory
torch.set_num_threads(1)
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def step():
    tensors = [torch.ones(2**20) for _ in range(40)]  # 40 blocks of 4 MB
for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
PAGES = 5 * 40 * 2**22 // resource.getpagesize()
"""Pages that five steps write."""


def page_faults(argument: str) -> int:
    environment = {name: value for name, value in os.environ.items() if name not in allocator._VARIABLES}
    command = [sys.executable, "-c", PROGRAM, argument]
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True, timeout=120
    )
    return int(done.stdout)


@pytest.mark.stage
def test_the_memory_of_a_step_is_used_again_by_the_next_one():
    assert page_faults("keep") < 0.01 * PAGES


@pytest.mark.stage
def test_a_stage_keeps_freed_memory(monkeypatch, tmp_path):
    calls: list[str] = []
    monkeypatch.setattr(job, "keep_freed_memory", lambda: calls.append("kept"))
    run_study(tmp_path, MINI_VALUES | {"study": "allocator", "seeds": [77]}, ("convert", "pretrain"))
    assert calls


@pytest.mark.parametrize("variable", allocator._VARIABLES)
def test_settings_of_the_user_are_not_changed(variable, monkeypatch):
    monkeypatch.setenv(variable, "1")
    monkeypatch.setattr(ctypes, "CDLL", None)  # would be called otherwise
    assert not keep_freed_memory()


def test_other_c_libraries_are_not_changed(monkeypatch):
    for name in allocator._VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    assert not keep_freed_memory()
