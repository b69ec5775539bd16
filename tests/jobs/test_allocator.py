"""Memory that a process keeps when it frees it."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import pytest

from mem.jobs import allocator, job
from mem.jobs.allocator import keep_freed_memory
from tests.conftest import REPOSITORY
from tests.stages.running import MINI_VALUES, run_study

pytestmark = pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library is not glibc")

PROGRAM = """
import ctypes
from mem.jobs.allocator import keep_freed_memory
assert keep_freed_memory()
libc = ctypes.CDLL(None)
for function in (libc.malloc, libc.sbrk):
    function.restype = ctypes.c_void_p
libc.malloc.argtypes, libc.free.argtypes, libc.sbrk.argtypes = [ctypes.c_size_t], [ctypes.c_void_p], [ctypes.c_ssize_t]
block = libc.malloc(31 * 2**20)
end = libc.sbrk(0)
print("in the heap" if end - 33 * 2**20 < block < end else "elsewhere")
libc.free(block)
print("kept" if libc.sbrk(0) == end else "returned")
large = libc.malloc(33 * 2**20)
print("large in the heap" if libc.sbrk(0) != end else "large elsewhere")
"""


@pytest.mark.stage
def test_freed_blocks_of_up_to_32_mb_stay_in_the_heap_and_larger_ones_are_not_allocated_there():
    environment = {name: value for name, value in os.environ.items() if name not in allocator._VARIABLES}
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.splitlines() == ["in the heap", "kept", "large elsewhere"]


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
