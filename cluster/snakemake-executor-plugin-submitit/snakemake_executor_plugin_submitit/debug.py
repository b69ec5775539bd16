"""Run jobs inside the workflow process, one after another, with their output on the terminal."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import replace

from submitit import DebugExecutor

from snakemake_executor_plugin_submitit.paths import submission_folder
from snakemake_executor_plugin_submitit.resources import Request, ResourceError
from snakemake_executor_plugin_submitit.states import Kind, State
from snakemake_executor_plugin_submitit.work import Work


class Debug:
    """A cluster that runs jobs inside the workflow process, where a debugger can stop at a breakpoint in a job."""

    name = "debug"
    outlives_workflow_process = False

    def __init__(self) -> None:
        self._states: dict[str, State] = {}
        self._stored: dict[str, list[Work]] = {}

    def collapse(self, request: Request) -> Request:
        """Check that the request is for a single process, and return the request.

        Raises:
            ResourceError: The job requests several tasks.
        """
        if request.tasks > 1:
            raise ResourceError(
                f"the job requests {request.tasks} tasks, but the debug cluster runs a single process. "
                "Use --submitit-cluster local"
            )
        return replace(request, bundle=1)

    def store(self, work: Work, token: str, index: int) -> None:
        """Keep a job that `submit` will run."""
        self._stored.setdefault(token, []).append(work)

    def submit(self, token: str, count: int, request: Request, name: str) -> list[str]:
        """Run stored jobs to completion and return their ids."""
        ids = []
        for work in self._stored.pop(token):
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
        """Return the final states of jobs. All submitted jobs have already ended."""
        return {job_id: self._states[job_id] for job_id in ids}

    def outcome(self, token: str, job_id: str, tasks: int) -> Kind:
        """Return DONE if a job succeeded, or FAILED if it failed."""
        return self._states[job_id].kind

    def cancel(self, ids: Collection[str]) -> None:
        """Do nothing, because no job runs in the background."""

    def remove_files(self, token: str, job_id: str, index: int) -> None:
        """Do nothing, because no files are kept."""
