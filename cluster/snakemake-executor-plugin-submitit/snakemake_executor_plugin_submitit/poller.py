"""Query the SLURM states of all jobs at once, with sacct or squeue."""

from __future__ import annotations

import time
from collections.abc import Callable

from snakemake_executor_plugin_submitit.pending import PendingJobs
from snakemake_executor_plugin_submitit.queries import QueryFailed, from_sacct, from_squeue
from snakemake_executor_plugin_submitit.states import UNKNOWN, Kind, State

_WITHOUT_ACCOUNTING_SECONDS = 60
"""Seconds for which the plugin queries squeue instead after sacct has failed."""
_CONTROLLER_EVERY = 10
"""Of this many consecutive queries, the last one goes to squeue even if sacct works."""
_REASONS_EVERY_SECONDS = 30
"""Seconds after which squeue is queried again while jobs are pending, because sacct does not report the reason."""


class StatePoller:
    """Queries the states of all jobs at once.

    A poll normally runs sacct. It runs squeue instead if sacct failed recently, if the previous poll returned an
    inconclusive state, or to update the reasons of pending jobs. Every tenth poll also runs squeue, because the
    accounting database may miss the end of a job.
    """

    def __init__(self, warn: Callable[[str], None], *, forget_seconds: float = 60.0) -> None:
        self._warn = warn
        self._forget_seconds = forget_seconds
        self._pending_jobs = PendingJobs(warn)
        self._reasons_at = time.monotonic()
        self._any_pending = False
        self._controller_next = False
        self._controller_until = 0.0
        self._missing_since: dict[str, float] = {}
        self._unsettled: dict[str, State] = {}
        self._last_error = ""
        self.queries = 0

    def poll(self, ids: set[str]) -> dict[str, State]:
        """Return the states of jobs. If a query fails, all states are UNKNOWN and no error is raised."""
        controller = self._use_controller()
        self._controller_next = False
        self.queries += 1
        try:
            found = from_squeue(ids) if controller else from_sacct(ids)
        except QueryFailed as failed:
            self._query_failed(str(failed), controller)
            return dict.fromkeys(ids, UNKNOWN)
        if self._last_error.startswith("squeue" if controller else "sacct"):
            self._warn(f"SLURM's {self._last_error.split(':')[0]} responds again.")
            self._last_error = ""
        resolve = self._from_controller if controller else self._from_database
        states = {job_id: resolve(job_id, found.get(job_id)) for job_id in ids}
        self._any_pending = any(state.kind is Kind.PENDING for state in states.values())
        if controller:
            self._reasons_at = time.monotonic()
            self._pending_jobs.observe(states)
        return states

    def _use_controller(self) -> bool:
        now = time.monotonic()
        return (
            self._controller_next
            or now < self._controller_until
            or self.queries % _CONTROLLER_EVERY == _CONTROLLER_EVERY - 1
            or (self._any_pending and now >= self._reasons_at + _REASONS_EVERY_SECONDS)
        )

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
