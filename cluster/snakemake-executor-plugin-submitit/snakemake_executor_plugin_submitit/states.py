"""What became of a job: SLURM's words, and one query for all jobs."""

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
_CONTROLLER_EVERY = 10


class Kind(enum.Enum):
    """What the head does about a job."""

    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    UNSURE = "unsure"
    """The source cannot tell for now; the other one is asked next time."""
    GONE = "gone"
    """No source knows it any more."""


@dataclass(frozen=True)
class State:
    """The state of a job."""

    kind: Kind
    word: str
    """SLURM's own: COMPLETED, TIMEOUT, ..."""
    nodes: str = ""


UNKNOWN = State(Kind.UNSURE, "UNKNOWN")
_PENDING = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD"}
_RUNNING = {"RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING"}
_REQUEUEABLE = {"PREEMPTED", "NODE_FAIL", "BOOT_FAIL", "REVOKED", "LAUNCH_FAILED", "RECONFIG_FAIL"}
"""The database shows these also while the controller has requeued the job."""


def kind_of(word: str, *, final: bool) -> Kind:
    """What SLURM's word for a state means.

    Args:
        word: As sacct or squeue print it.
        final: Whether the source would know if the job had been requeued.
    """
    if word in _PENDING:
        return Kind.PENDING
    if word in _RUNNING:
        return Kind.RUNNING
    if word == "COMPLETED":
        return Kind.DONE
    if word in _REQUEUEABLE and not final:
        return Kind.UNSURE
    return Kind.FAILED


class QueryFailed(Exception):
    """A source of states did not answer."""


def ask(command: list[str]) -> str:
    """Run a query.

    Raises:
        QueryFailed: Says what the command said.
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
    """States from the accounting database.

    Raises:
        QueryFailed: It is off, or does not answer.
    """
    wanted = ",".join(sorted({job_id.split("_")[0] for job_id in ids}))
    return read_sacct(ask(["sacct", "--noheader", "--parsable2", "--format=JobID,State,NodeList", f"--jobs={wanted}"]))


def read_sacct(text: str) -> dict[str, State]:
    """Read sacct's lines, one for each job and each of its steps."""
    found: dict[str, State] = {}
    out_of_memory: set[str] = set()
    for line in text.splitlines():
        job_id, state, nodes = line.split("|", 2)
        word = state.split()[0] if state else "UNKNOWN"
        job, _, step = job_id.partition(".")
        if step:
            if word == "OUT_OF_MEMORY":
                out_of_memory.add(job)
            continue
        found |= dict.fromkeys(_elements(job), State(kind_of(word, final=False), word, nodes))
    for job in out_of_memory & found.keys():
        if found[job].kind is Kind.FAILED:  # a step's end does not always become its job's
            found[job] = State(Kind.FAILED, "OUT_OF_MEMORY", found[job].nodes)
    return found


def from_squeue(ids: Iterable[str]) -> dict[str, State]:
    """States from the controller, which forgets a job some minutes after its end.

    Raises:
        QueryFailed: It does not answer.
    """
    wanted = ",".join(sorted({job_id.split("_")[0] for job_id in ids}))
    command = ["squeue", "--noheader", "--array", "--states=all", "--format=%i|%T|%N", f"--jobs={wanted}"]
    try:
        text = ask(command)
    except QueryFailed as failed:
        if "Invalid job id" in str(failed):
            return {}
        raise
    return read_squeue(text)


def read_squeue(text: str) -> dict[str, State]:
    """Read squeue's lines, one for each job or element of an array."""
    found: dict[str, State] = {}
    for line in text.splitlines():
        job_id, word, nodes = line.strip().split("|", 2)
        found |= dict.fromkeys(_elements(job_id), State(kind_of(word, final=True), word, nodes))
    return found


def _elements(job_id: str) -> list[str]:
    """The ids that a line is about: `7`, `7_3`, or those of `7_[0-3,6%2]`."""
    if not re.fullmatch(r"\d+(_\d+|_\[[\d,%-]+\])?", job_id):
        return []
    found: list[str] = []
    for parts in read_job_id(job_id):
        if len(parts) == 1:
            found.append(parts[0])
        else:
            found += [f"{parts[0]}_{n}" for n in range(int(parts[1]), int(parts[-1]) + 1)]
    return found


class Watch:
    """Asks for the states of all jobs in one query a poll.

    sacct is asked; squeue where sacct fails or cannot tell, and now and then anyway: the database may miss a job's end.
    """

    def __init__(self, say: Callable[[str], None], *, forget_seconds: float = 60.0) -> None:
        self._say = say
        self._forget_seconds = forget_seconds
        self._controller_next = False
        self._accounting_back = 0.0
        self._missing: dict[str, float] = {}
        self._unsure: dict[str, State] = {}
        self._complaint = ""
        self.queries = 0
        self.answered = True
        """Whether the last query was answered."""

    def poll(self, ids: set[str], *, controller: bool = False) -> dict[str, State]:
        """The states of some jobs. Never fails: a job of which nothing can be learned now is UNSURE."""
        controller |= self._controller_next or time.monotonic() < self._accounting_back
        controller |= self.queries % _CONTROLLER_EVERY == _CONTROLLER_EVERY - 1
        self._controller_next = False
        self.queries += 1
        try:
            found = from_squeue(ids) if controller else from_sacct(ids)
        except QueryFailed as failed:
            self.answered = False
            self._failed(str(failed), controller)
            return dict.fromkeys(ids, UNKNOWN)
        self.answered = True
        if self._complaint.startswith("squeue" if controller else "sacct"):
            self._say(f"SLURM's {self._complaint.split(':')[0]} answers again.")
            self._complaint = ""
        judge = self._from_controller if controller else self._from_database
        return {job_id: judge(job_id, found.get(job_id)) for job_id in ids}

    def _from_database(self, job_id: str, state: State | None) -> State:
        if state is None or state.kind is Kind.UNSURE:
            self._controller_next = True
            if state is not None:
                self._unsure[job_id] = state
            return UNKNOWN
        if state.kind in (Kind.PENDING, Kind.RUNNING):
            self._unsure.pop(job_id, None)
            self._controller_next |= job_id in self._missing
        return state

    def _from_controller(self, job_id: str, state: State | None) -> State:
        if state is not None:
            self._missing.pop(job_id, None)
            return state
        first = self._missing.setdefault(job_id, time.monotonic())
        if time.monotonic() - first <= self._forget_seconds:
            return UNKNOWN
        before = self._unsure.get(job_id)
        return State(Kind.FAILED, before.word, before.nodes) if before else State(Kind.GONE, "UNKNOWN")

    def _failed(self, complaint: str, controller: bool) -> None:
        if not controller:
            self._accounting_back = time.monotonic() + _WITHOUT_ACCOUNTING_SECONDS
        if complaint != self._complaint:
            other = "it is asked again" if controller else "squeue is asked instead, for a minute"
            self._say(f"No states from SLURM's {complaint}; {other}. Jobs are not touched.")
            self._complaint = complaint
