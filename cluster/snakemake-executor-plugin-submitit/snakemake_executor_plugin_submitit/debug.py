"""Jobs in the head's own process, one after another, with their output on the terminal."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence

from submitit import DebugExecutor

from snakemake_executor_plugin_submitit.paths import submission_folder
from snakemake_executor_plugin_submitit.resources import Request, ResourceFault
from snakemake_executor_plugin_submitit.states import Kind, State
from snakemake_executor_plugin_submitit.work import Work


class Debug:
    """For looking into a workflow: a breakpoint in a job is a breakpoint in the head."""

    name = "debug"
    outlives_head = False

    def __init__(self) -> None:
        self._states: dict[str, State] = {}

    def collapse(self, request: Request) -> Request:
        """Refuse what one process cannot do.

        Raises:
            ResourceFault: Several tasks are asked for.
        """
        if request.tasks > 1:
            raise ResourceFault(f"{request.tasks} tasks: the debug cluster has one process; use local")
        return request

    def submit(self, works: Sequence[Work], request: Request, token: str, name: str) -> list[str]:
        """Run jobs to their end; their ids."""
        ids = []
        for work in works:
            job = DebugExecutor(submission_folder(token)).submit(work)
            before = dict(os.environ)
            os.environ["SUBMITIT_DEBUG_JOB_ID"] = job.job_id
            error = job.exception()
            os.environ.clear()
            os.environ.update(before)
            failed = State(Kind.FAILED, "FAILED")
            self._states[job.job_id] = State(Kind.DONE, "COMPLETED") if error is None else failed
            ids.append(job.job_id)
        return ids

    def poll(self, ids: Collection[str]) -> dict[str, State]:
        """The states of jobs: all have ended."""
        return {job_id: self._states[job_id] for job_id in ids}

    def outcome(self, token: str, job_id: str, tasks: int) -> Kind:
        """How a job ended."""
        return self._states[job_id].kind

    def cancel(self, ids: Collection[str]) -> None:
        """Nothing runs by itself here."""

    def forget(self, token: str, job_id: str) -> None:
        """Nothing is kept."""
