"""Query the SLURM states of all jobs at once."""

from __future__ import annotations

import enum
import re
import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from submitit.slurm.slurm import read_job_id

_TIMEOUT_SECONDS = 60
_WITHOUT_ACCOUNTING_SECONDS = 60
"""Seconds for which the plugin queries squeue instead after sacct has failed."""
_CONTROLLER_EVERY = 10
"""Of this many consecutive queries, the last one goes to squeue even if sacct works."""


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


UNKNOWN = State(Kind.UNKNOWN, "UNKNOWN")
_PENDING = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD"}
_RUNNING = {"RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING"}
_REQUEUEABLE = {"PREEMPTED", "NODE_FAIL", "BOOT_FAIL", "REVOKED", "LAUNCH_FAILED", "RECONFIG_FAIL"}
"""States that the accounting database may also report for jobs that the controller has requeued."""


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


class QueryFailed(Exception):
    """A query command failed or timed out."""


def run_query(command: list[str]) -> str:
    """Run a query command and return its output.

    Raises:
        QueryFailed: The command failed or timed out. The message contains the command's error output.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise QueryFailed(f"{command[0]}: {error}") from None
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise QueryFailed(f"{command[0]}: {lines[0] if lines else f'exit status {done.returncode}'}")
    return done.stdout


def from_sacct(ids: Iterable[str]) -> dict[str, State]:
    """Return job states from the accounting database.

    Raises:
        QueryFailed: Accounting is disabled or does not respond.
    """
    return read_sacct(
        run_query(["sacct", "--noheader", "--parsable2", "--format=JobID,State,NodeList", f"--jobs={_job_list(ids)}"])
    )


def read_sacct(text: str) -> dict[str, State]:
    """Parse the output of sacct, which contains one line per job and one line per step."""
    found: dict[str, State] = {}
    out_of_memory: set[str] = set()
    for line in text.splitlines():
        job_id, state, nodes = line.split("|", 2)
        name = state.split()[0] if state else "UNKNOWN"
        job, _, step = job_id.partition(".")
        if step:
            if name == "OUT_OF_MEMORY":
                out_of_memory.add(job)
            continue
        found |= dict.fromkeys(_job_ids(job), State(kind_of(name, final=False), name, nodes))
    for job in out_of_memory & found.keys():
        if found[job].kind is Kind.FAILED:  # a job does not always have the state of its failed step
            found[job] = State(Kind.FAILED, "OUT_OF_MEMORY", found[job].nodes)
    return found


def from_squeue(ids: Iterable[str]) -> dict[str, State]:
    """Return job states from the controller. Some minutes after the end of a job, the controller no longer lists it.

    Raises:
        QueryFailed: The controller does not respond.
    """
    command = ["squeue", "--noheader", "--array", "--states=all", "--format=%i|%T|%N", f"--jobs={_job_list(ids)}"]
    try:
        text = run_query(command)
    except QueryFailed as failed:
        if "Invalid job id" in str(failed):
            return {}
        raise
    return read_squeue(text)


def read_squeue(text: str) -> dict[str, State]:
    """Parse the output of squeue, which contains one line per job or array element."""
    found: dict[str, State] = {}
    for line in text.splitlines():
        job_id, name, nodes = line.strip().split("|", 2)
        found |= dict.fromkeys(_job_ids(job_id), State(kind_of(name, final=True), name, nodes))
    return found


def _job_list(ids: Iterable[str]) -> str:
    """Return the ids as a comma-separated list in which each array appears once."""
    return ",".join(sorted({job_id.split("_")[0] for job_id in ids}))


def _job_ids(job_id: str) -> list[str]:
    """Expand the job id from the first column into single ids: `7`, `7_3`, or an array such as `7_[0-3,6%2]`."""
    if not re.fullmatch(r"\d+(_\d+|_\[[\d,%-]+\])?", job_id):
        return []
    found: list[str] = []
    for parts in read_job_id(job_id):
        if len(parts) == 1:
            found.append(parts[0])
        else:
            found += [f"{parts[0]}_{n}" for n in range(int(parts[1]), int(parts[-1]) + 1)]
    return found


class StatePoller:
    """Queries the states of all jobs at once.

    A poll normally runs sacct. It runs squeue instead if sacct failed recently or if the previous poll returned an
    inconclusive state. Every tenth poll also runs squeue, because the accounting database may miss the end of a job.
    """

    def __init__(self, warn: Callable[[str], None], *, forget_seconds: float = 60.0) -> None:
        self._warn = warn
        self._forget_seconds = forget_seconds
        self._controller_next = False
        self._controller_until = 0.0
        self._missing_since: dict[str, float] = {}
        self._unsettled: dict[str, State] = {}
        self._last_error = ""
        self.queries = 0
        self.answered = True
        """Whether the last query succeeded."""

    def poll(self, ids: set[str], *, controller: bool = False) -> dict[str, State]:
        """Return the states of jobs. If a query fails, all states are UNKNOWN and no error is raised."""
        controller |= self._controller_next or time.monotonic() < self._controller_until
        controller |= self.queries % _CONTROLLER_EVERY == _CONTROLLER_EVERY - 1
        self._controller_next = False
        self.queries += 1
        try:
            found = from_squeue(ids) if controller else from_sacct(ids)
        except QueryFailed as failed:
            self.answered = False
            self._query_failed(str(failed), controller)
            return dict.fromkeys(ids, UNKNOWN)
        self.answered = True
        if self._last_error.startswith("squeue" if controller else "sacct"):
            self._warn(f"SLURM's {self._last_error.split(':')[0]} responds again.")
            self._last_error = ""
        resolve = self._from_controller if controller else self._from_database
        return {job_id: resolve(job_id, found.get(job_id)) for job_id in ids}

    def _from_database(self, job_id: str, state: State | None) -> State:
        if state is None or state.kind is Kind.UNKNOWN:
            self._controller_next = True
            if state is not None:
                self._unsettled[job_id] = state
            return UNKNOWN
        if state.kind in (Kind.PENDING, Kind.RUNNING):
            self._unsettled.pop(job_id, None)
            self._controller_next |= job_id in self._missing_since
        return state

    def _from_controller(self, job_id: str, state: State | None) -> State:
        if state is not None:
            self._missing_since.pop(job_id, None)
            return state
        first = self._missing_since.setdefault(job_id, time.monotonic())
        if time.monotonic() - first <= self._forget_seconds:
            return UNKNOWN
        before = self._unsettled.get(job_id)
        return State(Kind.FAILED, before.name, before.nodes) if before else State(Kind.GONE, "UNKNOWN")

    def _query_failed(self, error: str, controller: bool) -> None:
        if not controller:
            self._controller_until = time.monotonic() + _WITHOUT_ACCOUNTING_SECONDS
        if error != self._last_error:
            next_query = "The query will be repeated" if controller else "For one minute, squeue is queried instead"
            self._warn(f"Cannot query job states with SLURM's {error}. {next_query}. Jobs are not affected.")
            self._last_error = error
