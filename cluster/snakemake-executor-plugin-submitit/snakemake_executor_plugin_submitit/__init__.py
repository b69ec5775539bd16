"""Snakemake executor plugin `submitit`: multi-rank jobs that survive preemption, time limits and the head's death.

What Snakemake's registry of plugins looks for is imported when it looks: a job's ranks import this package too, and
would otherwise load Snakemake's interfaces at each start.
"""

from __future__ import annotations

from typing import Any

_WHERE = {"Executor": "executor", "ExecutorSettings": "settings", "common_settings": "settings"}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
