"""Submitting again for reasons that lie outside a job's code."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from snakemake_executor_plugin_submitit.resources import Request
from snakemake_executor_plugin_submitit.settings import ExecutorSettings
from snakemake_executor_plugin_submitit.states import State

_ELSEWHERE = {"NODE_FAIL", "BOOT_FAIL", "LAUNCH_FAILED"}
_AS_IT_WAS = {"PREEMPTED", "REQUEUE_REFUSED"}


@dataclass(frozen=True)
class Retry:
    """A changed request, and what changed, in words."""

    request: Request
    change: str
    counts: bool = True
    """Whether it uses up one of the retries; going on from saved work does not."""


def retry_of(request: Request, state: State, reason: str, settings: ExecutorSettings) -> Retry | None:
    """How to submit a failed job again; None where its own code is at fault or nothing would change.

    Args:
        request: What it asked for.
        state: How SLURM says that it ended.
        reason: What its ranks say; more exact than SLURM's word where they had time to say it.
        settings: Growth factors.
    """
    word = reason or state.word
    if word == "OUT_OF_MEMORY":
        return _more_memory(request, settings.memory_growth)
    if word in ("TIMEOUT", "DEADLINE"):
        if request.minutes is None:
            return None
        grown = replace(request, minutes=math.ceil(request.minutes * settings.time_growth))
        return Retry(grown, f"{grown.minutes} minutes instead of {request.minutes}")
    if word in _ELSEWHERE:
        bad = tuple(dict.fromkeys([*request.exclude, state.nodes])) if _is_name(state.nodes) else request.exclude
        without = f"without node {state.nodes}" if bad != request.exclude else "where SLURM likes"
        return Retry(replace(request, exclude=bad), without)
    if word in _AS_IT_WAS:
        return Retry(request, "to go on from what it saved", counts=word != "REQUEUE_REFUSED")
    return None


def _is_name(nodes: str) -> bool:
    return bool(nodes) and nodes not in ("None assigned", "(null)") and "[" not in nodes and "," not in nodes


def _more_memory(request: Request, growth: float) -> Retry | None:
    if request.memory_mb_per_cpu is not None:
        grown = math.ceil(request.memory_mb_per_cpu * growth)
        change = f"{grown} MB per core instead of {request.memory_mb_per_cpu}"
        return Retry(replace(request, memory_mb_per_cpu=grown), change)
    if request.memory_mb is not None:
        grown = math.ceil(request.memory_mb * growth)
        return Retry(replace(request, memory_mb=grown), f"{grown} MB per node instead of {request.memory_mb}")
    return None
