"""Determine how to resubmit jobs that failed for reasons outside their code."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from snakemake_executor_plugin_submitit.failures import TERMINATED, failure_cause
from snakemake_executor_plugin_submitit.resources import Request
from snakemake_executor_plugin_submitit.settings import ExecutorSettings
from snakemake_executor_plugin_submitit.states import State

_NODE_FAILURES = {"NODE_FAIL", "BOOT_FAIL", "LAUNCH_FAILED"}
_UNCHANGED = {"PREEMPTED", "REQUEUE_REFUSED", TERMINATED}


@dataclass(frozen=True)
class Retry:
    """The request for a resubmission, and a description of what changed."""

    request: Request
    change: str
    counts: bool = True
    """Whether the resubmission counts towards `--submitit-retries`. A resubmission after a refused requeue does not."""


def plan_retry(request: Request, state: State, reason: str, settings: ExecutorSettings) -> Retry | None:
    """Return how to resubmit a failed job, or None if its code failed or the request contains no limit to increase.

    Args:
        request: The failed job's request.
        state: The failed job's final SLURM state.
        reason: The reason that the ranks recorded, or an empty string (see `failure_cause`).
        settings: Plugin settings, which contain the growth factors.
    """
    cause = failure_cause(state.name, reason)
    if cause == "OUT_OF_MEMORY":
        return _more_memory(request, settings.memory_growth)
    if cause in ("TIMEOUT", "DEADLINE"):
        if request.minutes is None:
            return None
        grown = replace(request, minutes=math.ceil(request.minutes * settings.time_growth))
        return Retry(grown, f"with {grown.minutes} minutes instead of {request.minutes}")
    if cause in _NODE_FAILURES:
        exclude = request.exclude
        if _is_single_node(state.nodes):
            exclude = tuple(dict.fromkeys([*exclude, state.nodes]))
        change = f"without node {state.nodes}" if exclude != request.exclude else "on any node"
        return Retry(replace(request, exclude=exclude), change)
    if cause in _UNCHANGED:
        return Retry(request, "to resume from its saved state", counts=cause != "REQUEUE_REFUSED")
    return None


def _is_single_node(nodes: str) -> bool:
    return bool(nodes) and nodes not in ("None assigned", "(null)") and "[" not in nodes and "," not in nodes


def _more_memory(request: Request, growth: float) -> Retry | None:
    if request.memory_mb_per_cpu is not None:
        grown = math.ceil(request.memory_mb_per_cpu * growth)
        change = f"with {grown} MB per core instead of {request.memory_mb_per_cpu}"
        return Retry(replace(request, memory_mb_per_cpu=grown), change)
    if request.memory_mb is not None:
        grown = math.ceil(request.memory_mb * growth)
        return Retry(replace(request, memory_mb=grown), f"with {grown} MB per node instead of {request.memory_mb}")
    return None
