"""The executor that Snakemake's scheduler talks to."""

from __future__ import annotations

import asyncio
import os
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
from snakemake_executor_plugin_submitit.settings import validate
from snakemake_executor_plugin_submitit.slurm import Slurm
from snakemake_executor_plugin_submitit.states import Kind
from snakemake_executor_plugin_submitit.submission import Submission
from snakemake_executor_plugin_submitit.submissions import Submissions

_FIRST_POLL_SECONDS = {"slurm": 2.0, "local": 0.2, "debug": 0.05}
_SLOWER = 1.3
_MANY_FILES = 20


class Executor(RemoteExecutor):
    """Runs jobs through submitit."""

    def __init__(self, workflow: Any, logger: Any) -> None:
        # All this before the base class, which starts a thread: that thread finds everything in its place, and what
        # is refused here does not leave the head waiting for ever.
        settings = workflow.executor_settings
        validate(settings, workflow.storage_settings.shared_fs_usage)
        self.workflow, self.dag, self.logger = workflow, workflow.dag, logger
        if settings.cluster == "slurm":
            self._cluster = Slurm(logger.warning, signal_delay_seconds=settings.signal_delay_seconds)
        else:
            self._cluster = Local(ranks=settings.local_ranks) if settings.cluster == "local" else Debug()
        self._submissions = Submissions(self, self._cluster, settings)
        self._interrupts = Interrupts(
            detachable=self._cluster.outlives_head,
            holds=settings.cluster != "debug",  # whose jobs run to their end while they are submitted
        )
        self._longest = max(1.0, workflow.remote_execution_settings.seconds_between_status_checks)
        self._soon()
        self._validated = False
        super().__init__(workflow, logger)

    # submitting

    def run_job(self, job: JobExecutorInterface) -> None:
        """Submit one job."""
        self.run_jobs([job])

    def run_jobs(self, jobs: list[JobExecutorInterface]) -> None:
        """Submit jobs that are ready, like ones together; those of a former head are taken up again.

        Raises:
            WorkflowError: At the first call, if a job of the workflow asks for what cannot be.
        """
        if not self._validated:
            self._submissions.validate_all()
            self._validated = True
        for job in jobs:
            self.run_job_pre(job)
        with self._interrupts.held():
            self._submissions.submit(jobs)
        self._soon()

    def submitted(self, submission: Submission, *, register: bool = True) -> None:
        """Tell Snakemake of a job that the cluster has."""
        info = SubmittedJobInfo(submission.job, external_jobid=submission.job_id, aux={"submission": submission})
        self.report_job_submission(info, register_job=register)

    def refused(self, job: JobExecutorInterface, message: str) -> None:
        """Tell Snakemake of a job that the cluster does not take; the others go on."""
        self._report_failure(SubmittedJobInfo(job), message)

    # watching

    async def check_active_jobs(  # type: ignore[override]  # the interface names its own type wrongly
        self, active_jobs: list[SubmittedJobInfo]
    ) -> AsyncGenerator[SubmittedJobInfo, None]:
        """Ask once for all jobs, and tell Snakemake of those that have ended."""
        submissions = [_submission(info) for info in active_jobs]
        states = self._cluster.poll({s.job_id for s in submissions}) if submissions else {}
        for info, submission in zip(active_jobs, submissions, strict=True):
            kind = self._submissions.advance(submission, states[submission.job_id])
            if kind is Kind.DONE:
                self._soon()
                self.report_job_success(info)
            elif kind is Kind.FAILED:
                self._soon()
                self._report_failure(info, submission.error, submission.shown_logs())
            else:
                info.external_jobid = submission.job_id
                yield info

    def _report_failure(self, info: SubmittedJobInfo, message: str, logs: Sequence[str] = ()) -> None:
        self.report_job_error(info, msg=f"{message}\n", aux_logs=list(logs))
        if Quietness.RULES in (self.workflow.output_settings.quiet or ()):
            # Snakemake is then silent about failures too.
            self.logger.error(f"Error in {'group' if info.job.is_group() else 'rule'} {info.job.name}: {message}")

    def _soon(self) -> None:
        self._interval = min(self._longest, _FIRST_POLL_SECONDS[self._cluster.name])

    async def sleep(self) -> None:
        """Wait until the next poll: briefly after something happened, up to Snakemake's own interval later on."""
        began = time.monotonic()
        while self.wait and time.monotonic() < began + self._interval:
            await asyncio.sleep(0.05)
        if self._cluster.outlives_head:
            self._interval = min(self._longest, self._interval * _SLOWER)

    # ending

    def cancel(self) -> None:
        """Cancel every job that the cluster may have, or leave them to the next head after a hang-up."""
        live = self._submissions.close()
        if self._interrupts.hung_up:
            self.logger.info(
                f"Detached: {len(live)} SLURM jobs go on. The same command takes them up again; `scancel` ends them."
            )
        elif live:
            self._cluster.cancel(live)
            self._submissions.forget_all()
        self.shutdown()

    def cancel_jobs(self, active_jobs: list[SubmittedJobInfo]) -> None:
        """Cancel jobs."""
        self._cluster.cancel([_submission(info).job_id for info in active_jobs])

    def shutdown(self) -> None:
        """End watching."""
        self._interrupts.restore()
        super().shutdown()

    # Snakemake's own command, where a job needs one

    def inner_command(self, job: JobExecutorInterface, cores: int, wait_for: Path) -> str:
        """The command that runs a job in a Snakemake of its own."""
        self._inner_cores, self._wait_for = cores, wait_for
        return self.format_job_exec(job)

    def get_job_args(self, job: JobExecutorInterface, **kwargs: Any) -> str:
        """As the base class, without the head's temporary folder, which is gone once the head is."""
        waited = [os.path.abspath(path) for path in job.get_wait_for_files()]
        if len(waited) > _MANY_FILES:
            self._wait_for.parent.mkdir(parents=True, exist_ok=True)
            self._wait_for.write_text("\n".join(waited) + "\n")
            argument = format_cli_arg("--wait-for-files-file", str(self._wait_for))
        else:
            argument = format_cli_arg("--wait-for-files", waited)
        return f"{RealExecutor.get_job_args(self, job, cores=self._inner_cores)} {argument}"


def _submission(info: SubmittedJobInfo) -> Submission:
    assert info.aux is not None
    return info.aux["submission"]
