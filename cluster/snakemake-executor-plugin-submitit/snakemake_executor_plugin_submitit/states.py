"""States of SLURM jobs."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Kind(enum.Enum):
    """Classification of job states for the workflow process."""

    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    UNKNOWN = "unknown"
    """The query did not determine the state."""
    GONE = "gone"
    """Neither sacct nor squeue lists the job any more."""


@dataclass(frozen=True)
class State:
    """The state of a job."""

    kind: Kind
    name: str
    """SLURM's name for the state, such as COMPLETED or TIMEOUT."""
    nodes: str = ""
    reason: str = ""
    """SLURM's reason why a pending job does not start, or the error that prevented the start of a local job."""


NOT_STARTED = "NOT_STARTED"
"""Name of the state of a local job that could not be started."""
UNKNOWN = State(Kind.UNKNOWN, "UNKNOWN")
_PENDING = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD"}
_RUNNING = {"RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING"}
_REQUEUEABLE = {"PREEMPTED", "NODE_FAIL", "BOOT_FAIL", "REVOKED", "LAUNCH_FAILED", "RECONFIG_FAIL"}
"""States that the accounting database may also report for jobs that the controller has requeued."""
_WITHOUT_VERDICT = {"FAILED", "PREEMPTED", "TIMEOUT", "DEADLINE", "NODE_FAIL"}
"""States that a job can also reach after all its ranks have succeeded, while its processes end."""


def ranks_decide(state: State) -> bool:
    """Return whether a job in this state has succeeded if all its ranks recorded success.

    A job can complete within the grace time of a preemption, at its time limit, or just before its node fails. SLURM
    then gives it a state of failure, although it does not run the job again. Jobs that a user cancelled, or that
    exceeded their memory, have failed even if their ranks recorded success.
    """
    return state.kind is Kind.GONE or (state.kind is Kind.FAILED and state.name in _WITHOUT_VERDICT)


def kind_of(name: str, *, final: bool) -> Kind:
    """Classify a SLURM state.

    Args:
        name: Name of the state, as printed by sacct or squeue.
        final: Whether the state is final: the source would report a different state if the job had been requeued.
    """
    if name in _PENDING:
        return Kind.PENDING
    if name in _RUNNING:
        return Kind.RUNNING
    if name == "COMPLETED":
        return Kind.DONE
    if name in _REQUEUEABLE and not final:
        return Kind.UNKNOWN
    return Kind.FAILED
