"""Snakemake executor plugin `submitit`: multi-rank jobs on SLURM or one machine, through submitit.

The names that Snakemake's plugin registry expects are imported on first access. Each rank of a job also imports this
package, but does not need Snakemake's interfaces.
"""

from __future__ import annotations

from typing import Any

_EXPORTS = {"Executor": "executor", "ExecutorSettings": "settings", "common_settings": "settings"}
"""Exported names, mapped to the modules that define them."""


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_EXPORTS[name]}"), name)
