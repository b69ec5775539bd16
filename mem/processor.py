"""The name and the vector instructions of this machine's processor."""

from __future__ import annotations

import platform
from pathlib import Path

_CPU_INFO = Path("/proc/cpuinfo")
_INSTRUCTIONS = {"avx512f": "AVX-512", "avx2": "AVX2", "avx": "AVX", "sve": "SVE", "asimd": "NEON"}
"""Vector instructions by their flag in /proc/cpuinfo, the widest first."""


def processor_name() -> str:
    """Return the name of the processor, for example `AMD EPYC 7763 64-Core Processor`; "" if it is unknown."""
    return _first("model name") or platform.processor()


def vector_instructions() -> str:
    """Return the widest vector instructions of the processor, for example `AVX2`; "" if they are unknown.

    PyTorch, oneDNN and MKL choose their kernels by them. Two processors with different instructions therefore round
    differently, also if they have the same name, as virtual machines of different hosts can.
    """
    flags = (_first("flags") or _first("Features")).split()
    return next((name for flag, name in _INSTRUCTIONS.items() if flag in flags), "")


def _first(field: str) -> str:
    """Return the value of a field for the first core; "" if there is none."""
    try:
        lines = _CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() == field:
            return value.strip()
    return ""
