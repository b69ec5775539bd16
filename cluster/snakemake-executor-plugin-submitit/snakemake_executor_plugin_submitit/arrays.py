"""Submit similar jobs to the cluster as an array."""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from snakemake_executor_plugin_submitit import bundles, command
from snakemake_executor_plugin_submitit.job_requests import Cluster
from snakemake_executor_plugin_submitit.paths import REGISTRY, STATE, job_folder, make_private, submission_folder
from snakemake_executor_plugin_submitit.registry import Record, Registry
from snakemake_executor_plugin_submitit.sbatch import (
    ArrayTooLarge,
    SubmissionRefused,
    SubmissionUnknown,
    SubmitLimitReached,
)
from snakemake_executor_plugin_submitit.settings import ExecutorSettings
from snakemake_executor_plugin_submitit.slurm import Slurm
from snakemake_executor_plugin_submitit.states import Kind
from snakemake_executor_plugin_submitit.submission import Submission
from snakemake_executor_plugin_submitit.work import Bundle, Work


class WorkflowExecutor(Protocol):
    """The part of the executor's interface that submission uses."""

    workflow: Any
    dag: Any
    logger: Any

    def submitted(self, submission: Submission, *, register: bool = True) -> None:
        """Report that a job was submitted or re-attached."""

    def refused(self, job: Any, message: str) -> None:
        """Report that the cluster rejected a job."""

    def inner_command(self, job: Any, cores: int, wait_for: Path) -> str:
        """Return the command that runs a job in an inner Snakemake."""
        ...


class ArraySender:
    """Writes the files and records of jobs, and submits the jobs."""

    def __init__(
        self, executor: WorkflowExecutor, cluster: Cluster, settings: ExecutorSettings, registry: Registry
    ) -> None:
        self._executor = executor
        self._cluster = cluster
        self._settings = settings
        self._registry = registry
        self._ports = settings.first_and_last_port()

    def send(self, submissions: Sequence[Submission], *, others_active: bool) -> tuple[list[Submission], str]:
        """Submit an array of jobs with equal requests.

        Args:
            submissions: The jobs. Afterwards, each has an id or an error, or is returned.
            others_active: Whether other jobs of this workflow process are on the cluster. If SLURM rejects a job
                without naming the limit that it exceeds, the job can be submitted later only if other jobs end.

        Returns:
            The jobs that exceed SLURM's submit limit, and SLURM's message.
        """
        unsent = [submission for submission in submissions if not submission.error]
        if not unsent:
            return [], ""
        try:
            self._send_once(unsent)
        except (ArrayTooLarge, SubmitLimitReached) as refused:
            if len(unsent) > 1:
                return self._send_halves(unsent, others_active=others_active)
            if isinstance(refused, SubmitLimitReached) and (refused.certain or others_active):
                return unsent, str(refused)
            unsent[0].error = self._rejection(refused)
        return [], ""

    def _send_halves(self, submissions: Sequence[Submission], *, others_active: bool) -> tuple[list[Submission], str]:
        half = len(submissions) // 2
        over_limit, message = self.send(submissions[:half], others_active=others_active)
        if over_limit:
            return [*over_limit, *submissions[half:]], message
        others_active |= any(submission.job_id for submission in submissions[:half])
        return self.send(submissions[half:], others_active=others_active)

    def _send_once(self, submissions: Sequence[Submission]) -> None:
        """Submit an array with a single call. Afterwards, each of its jobs has an id or an error.

        Raises:
            ArrayTooLarge: No job was submitted. A smaller array may be accepted.
            SubmitLimitReached: No job was submitted. A smaller array may be accepted.
        """
        token = f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:8]}"
        stored = self._store(submissions, token)
        if not stored:
            return
        try:
            if self._cluster.outlives_workflow_process:
                self._registry.add({each.key: self._record(each) for each in stored})
            request = stored[0].request
            elements = len(bundles.bundles_of(stored, request.bundle))
            ids = self._cluster.submit(token, elements, request, stored[0].job.name)
        except (ArrayTooLarge, SubmitLimitReached):
            self._discard(token, stored)
            raise
        except SubmissionUnknown as unknown:  # the records are kept, so that the next workflow process finds the jobs
            for submission in stored:
                submission.error = f"{unknown}. Run the same command again when SLURM responds."
            return
        except (SubmissionRefused, OSError) as error:
            self._discard(token, stored)
            for submission in stored:
                submission.error = self._rejection(error)
            return
        for submission in stored:
            index, bundle = submission.index, request.bundle
            submission.job_id = ids[index] if bundle == 1 else f"{ids[index // bundle]}#{index}"
            submission.last = Kind.PENDING
        if self._cluster.outlives_workflow_process:
            with disk_errors_reported(self._executor.logger):
                self._registry.set_number(token, ids[0].split("_")[0])

    def _store(self, submissions: Sequence[Submission], token: str) -> list[Submission]:
        """Write the jobs' files, and return the jobs whose files were written. The others have an error."""
        stored: list[Submission] = []
        size = submissions[0].request.bundle
        for bundle in bundles.bundles_of(submissions, size):
            for index, submission in enumerate(bundle, start=len(stored)):
                submission.token, submission.index, submission.submitted_at = token, index, time.time()
                submission.folder = job_folder(f"{token}-{submission.index}", submission.folder.logs)
            try:
                make_private(submission_folder(token).parent)
                make_private(bundle[0].folder.root.parent)
                for submission in bundle:
                    submission.folder.root.mkdir(exist_ok=True)
                self._cluster.store(self._callable(bundle), token, len(stored) // size)  # type: ignore[arg-type]
            except OSError as error:
                for submission in bundle:
                    shutil.rmtree(submission.folder.root, ignore_errors=True)
                    submission.error = self._rejection(error)
            else:
                stored.extend(bundle)
        return stored

    def _callable(self, bundle: Sequence[Submission]) -> Work | Bundle:
        """Return what the cluster runs for a bundle. Only requests to SLURM have bundles of several jobs."""
        if bundle[0].request.bundle == 1:
            return self._work(bundle[0])
        return Bundle(tuple(map(self._work, bundle)), self._settings.bundle_service or "")

    def _discard(self, token: str, submissions: Sequence[Submission]) -> None:
        """Remove the files and records of jobs that were not submitted."""
        for submission in submissions:
            shutil.rmtree(submission.folder.root, ignore_errors=True)
        shutil.rmtree(submission_folder(token), ignore_errors=True)
        with disk_errors_reported(self._executor.logger):
            self._registry.drop(token, range(len(submissions)))

    def _rejection(self, error: Exception) -> str:
        if isinstance(error, OSError):
            place = "" if error.filename else f" (in {STATE.absolute()})"
            return f"This job was not submitted, because its files cannot be written: {error}{place}"
        return f"{self._cluster.name} rejected this job: {error}"

    def _record(self, submission: Submission) -> Record:
        return Record(
            job_id="",
            token=submission.token,
            index=submission.index,
            tasks=submission.request.tasks,
            logs=str(submission.folder.logs),
            fingerprint=submission.fingerprint,
            submitted=submission.submitted_at,
            cluster=self._cluster.site_name() if isinstance(self._cluster, Slurm) else "",
            bundle=submission.request.bundle,
        )

    def _work(self, submission: Submission) -> Work:
        job, request, settings = submission.job, submission.request, self._settings
        workflow = self._executor.workflow
        inner = None
        if settings.inner_snakemake or command.inner_snakemake_reason(job, workflow):
            inner = self._executor.inner_command(job, request.cpus_per_task, submission.folder.wait_for)
        return Work(
            title=f"rule {job.name}",
            folder=submission.folder,
            cwd=os.getcwd(),
            command=command.shell_command(job),
            inner=inner,
            environment={} if job.is_group() else command.thread_variables(job),
            shell=command.shell_executable(job),
            preparation=command.preparation(job, workflow),
            minutes=request.minutes,
            signal_delay_seconds=request.signal_delay_seconds(settings.signal_delay_seconds),
            max_requeues=settings.max_requeues,
            ports=self._ports,
        )


@contextmanager
def disk_errors_reported(logger: Any) -> Iterator[None]:
    """Report an error of the file system as a warning, because it must not end the other jobs."""
    try:
        yield
    except OSError as error:
        logger.warning(f"Cannot update the records in {REGISTRY}: {error}. Jobs are not affected.")
