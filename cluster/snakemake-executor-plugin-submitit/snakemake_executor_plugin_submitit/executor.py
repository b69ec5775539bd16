"""The executor that Snakemake's scheduler calls."""

from __future__ import annotations

import asyncio
import os
import shlex
import sys
import time
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

from snakemake.settings.types import Quietness
from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo
from snakemake_interface_executor_plugins.executors.real import RealExecutor
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor
from snakemake_interface_executor_plugins.jobs import JobExecutorInterface
from snakemake_interface_executor_plugins.utils import format_cli_arg

from snakemake_executor_plugin_submitit.debug import Debug
from snakemake_executor_plugin_submitit.interrupts import Interrupts
from snakemake_executor_plugin_submitit.local import Local
from snakemake_executor_plugin_submitit.outcomes import Outcomes
from snakemake_executor_plugin_submitit.quoting import quote_for_shell
from snakemake_executor_plugin_submitit.settings import validate
from snakemake_executor_plugin_submitit.slurm import Slurm
from snakemake_executor_plugin_submitit.states import Kind, State
from snakemake_executor_plugin_submitit.submission import Submission
from snakemake_executor_plugin_submitit.submissions import Submissions

_FIRST_POLL_SECONDS = {"slurm": 2.0, "local": 0.2, "debug": 0.05}
_INTERVAL_GROWTH = 1.3
_MAX_FILES_ON_COMMAND_LINE = 20


class Executor(RemoteExecutor):
    """Snakemake executor that runs jobs through submitit."""

    def __init__(self, workflow: Any, logger: Any) -> None:
        # The base class starts a thread that uses these attributes, so they are set first. The settings are validated
        # before the thread starts, because a running thread would keep the workflow process alive after an error.
        settings = workflow.executor_settings
        validate(settings, workflow.storage_settings.shared_fs_usage)
        quote_for_shell()
        self.workflow, self.dag, self.logger = workflow, workflow.dag, logger
        if settings.cluster == "slurm":
            self._cluster = Slurm(logger.warning, signal_delay_seconds=settings.signal_delay_seconds)
        else:
            self._cluster = Local(ranks=settings.local_ranks) if settings.cluster == "local" else Debug()
        self._submissions = Submissions(self, self._cluster, settings)
        self._outcomes = Outcomes(self._submissions, self._cluster, settings, logger)
        self._reported_errors: set[str] = set()
        self._interrupts = Interrupts(
            detachable=self._cluster.outlives_workflow_process,
            delay_during_submission=settings.cluster != "debug",  # the debug cluster runs jobs during submission
        )
        self._longest_interval = max(1.0, workflow.remote_execution_settings.seconds_between_status_checks)
        self._poll_soon()
        self._begun = False
        super().__init__(workflow, logger)

    # submission

    def run_job(self, job: JobExecutorInterface) -> None:
        """Submit one job."""
        self.run_jobs([job])

    def run_jobs(self, jobs: list[JobExecutorInterface]) -> None:
        """Submit similar jobs as arrays, and re-attach to jobs of an earlier workflow process.

        Raises:
            WorkflowError: A job of the workflow has invalid resources. Only the first call checks all jobs.
        """
        if not self._begun:
            self._interrupts.handle_termination(self.workflow.scheduler)
            self._submissions.begin()
            self._begun = True
        for job in jobs:
            self.run_job_pre(job)
        with self._interrupts.delayed():
            self._submissions.submit(jobs)
        self._poll_soon()

    def submitted(self, submission: Submission, *, register: bool = True) -> None:
        """Report to Snakemake that a job is on the cluster."""
        info = SubmittedJobInfo(
            submission.job, external_jobid=submission.job_id or None, aux={"submission": submission}
        )
        self.report_job_submission(info, register_job=register)

    def refused(self, job: JobExecutorInterface, message: str) -> None:
        """Report to Snakemake that the cluster rejected a job. Other jobs are not affected."""
        self._report_failure(SubmittedJobInfo(job), message)

    # polling

    async def check_active_jobs(  # type: ignore[override]  # the interface declares a wrong return type
        self, active_jobs: list[SubmittedJobInfo]
    ) -> AsyncGenerator[SubmittedJobInfo, None]:
        """Query all jobs at once, report the jobs that ended, and yield the jobs that are still active."""
        submissions = [_submission(info) for info in active_jobs]
        self._submissions.submit_waiting()
        ids = {s.job_id for s in submissions if s.job_id and s.settled is None}
        states = self._cluster.poll(ids) if ids else {}
        for info, submission in zip(active_jobs, submissions, strict=True):
            kind = self._update(submission, submission.settled or states.get(submission.job_id))
            if kind is Kind.DONE:
                self._poll_soon()
                self.report_job_success(info)
            elif kind is Kind.FAILED:
                self._poll_soon()
                self._report_failure(info, submission.error, submission.shown_logs())
            else:
                info.external_jobid = submission.job_id or None
                yield info

    def _update(self, submission: Submission, state: State | None) -> Kind:
        """Process a job's state. After an error of the file system, the state is processed again in the next poll."""
        try:
            return self._outcomes.update(submission, state)
        except OSError as error:
            if str(error) not in self._reported_errors:
                self._reported_errors.add(str(error))
                self.logger.warning(f"Cannot process the state of rule {submission.job.name}'s job: {error}. Retrying.")
            return Kind.UNKNOWN

    def handle_job_success(self, job: JobExecutorInterface) -> None:
        """Forget a job after Snakemake has processed its outputs."""
        self._submissions.processed(job)

    def handle_job_error(self, job: JobExecutorInterface) -> None:
        """Forget a job after Snakemake has reported its failure or has not found its outputs."""
        self._submissions.processed(job)

    def _report_failure(self, info: SubmittedJobInfo, message: str, logs: Sequence[str] = ()) -> None:
        self.report_job_error(info, msg=f"{message}\n", aux_logs=list(logs))
        if Quietness.RULES in (self.workflow.output_settings.quiet or ()):
            # With `--quiet rules`, Snakemake also suppresses the error messages of failed jobs.
            self.logger.error(f"Error in {'group' if info.job.is_group() else 'rule'} {info.job.name}: {message}")

    def _poll_soon(self) -> None:
        self._interval = min(self._longest_interval, _FIRST_POLL_SECONDS[self._cluster.name])

    async def sleep(self) -> None:
        """Wait until the next poll. The interval is short after an event, and then grows up to Snakemake's interval."""
        began = time.monotonic()
        while self.wait and time.monotonic() < began + self._interval:
            await asyncio.sleep(0.05)
        if self._cluster.outlives_workflow_process:
            self._interval = min(self._longest_interval, self._interval * _INTERVAL_GROWTH)

    # shutdown

    def cancel(self) -> None:
        """Cancel all jobs, or leave SLURM jobs running for the next workflow process after SIGHUP and SIGTERM."""
        active = self._submissions.close()
        if self._interrupts.detached:
            self.logger.info(
                f"Detached: {len(active)} SLURM jobs continue. Run the same command again to re-attach, or cancel the "
                "jobs with `scancel`."
            )
        elif active:
            self._cluster.cancel(active)
            self._submissions.drop_all()
        self.shutdown()

    def cancel_jobs(self, active_jobs: list[SubmittedJobInfo]) -> None:
        """Cancel jobs."""
        self._cluster.cancel([job_id for info in active_jobs if (job_id := _submission(info).job_id)])

    def shutdown(self) -> None:
        """Stop polling."""
        self._interrupts.restore()
        super().shutdown()

    # inner Snakemake, for jobs that need one

    def inner_command(self, job: JobExecutorInterface, cores: int, wait_for: Path) -> str:
        """Return the command that runs a job in an inner Snakemake."""
        self._inner_cores, self._wait_for = cores, wait_for
        return self.format_job_exec(job)

    def get_python_executable(self) -> str:
        """Return the command that starts Python without importing modules from the working folder."""
        return f"{shlex.quote(sys.executable)} -P"

    def get_job_args(self, job: JobExecutorInterface, **kwargs: Any) -> str:
        """Return the arguments of the inner Snakemake.

        The base class writes long file lists to a temporary folder that is deleted when the workflow process ends. The
        plugin writes these lists to the job's folder instead.
        """
        wait_for_files = [os.path.abspath(path) for path in job.get_wait_for_files()]
        if len(wait_for_files) > _MAX_FILES_ON_COMMAND_LINE:
            self._wait_for.parent.mkdir(parents=True, exist_ok=True)
            self._wait_for.write_text("\n".join(wait_for_files) + "\n")
            argument = format_cli_arg("--wait-for-files-file", str(self._wait_for))
        else:
            argument = format_cli_arg("--wait-for-files", wait_for_files)
        return f"{RealExecutor.get_job_args(self, job, cores=self._inner_cores)} {argument}"


def _submission(info: SubmittedJobInfo) -> Submission:
    assert info.aux is not None
    return info.aux["submission"]
