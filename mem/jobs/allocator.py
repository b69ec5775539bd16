"""The memory allocator of the C library: memory that a step of a training frees is kept for the next step."""

from __future__ import annotations

import ctypes
import os

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Parameters of `mallopt`, from glibc's malloc.h."""
_LARGEST_KEPT_BLOCK = 32 * 2**20
"""Bytes; the highest MMAP threshold that glibc accepts. Larger blocks return to the system when they are freed."""
_KEPT_AT_THE_END = 2**31 - 1
"""Bytes of free memory at the end of the heap that the process keeps: the highest value of a C integer."""
_VARIABLES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


def keep_freed_memory() -> bool:
    """Let this process keep the memory that it frees, and return whether this was possible.

    By default, glibc returns tens of megabytes to the system after each step of a training. The next step gets them as
    new pages, which the kernel fills with zeros. Steps of small networks on a CPU thereby take up to a fifth longer
    (docs/performance/cpu.md). Settings of the user in the environment are not changed, nor are the C libraries of
    other systems than GNU/Linux.
    """
    if any(os.environ.get(name) for name in _VARIABLES):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = ((_MMAP_THRESHOLD, _LARGEST_KEPT_BLOCK), (_TRIM_THRESHOLD, _KEPT_AT_THE_END))
    return all([mallopt(name, value) == 1 for name, value in settings])
