"""Submit Snakemake jobs to the cluster and track them until they end."""

from __future__ import annotations

import os
import shutil
import threading
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from snakemake.exceptions import RuleException
from snakemake_interface_common.exceptions import WorkflowError

from snakemake_executor_plugin_submitit import command, requeue
from snakemake_executor_plugin_submitit.debug import Debug
from snakemake_executor_plugin_submitit.failures import error_message, first_failure
from snakemake_executor_plugin_submitit.local import Local
from snakemake_executor_plugin_submitit.paths import REGISTRY, job_folder, rank_logs, submission_folder
from snakemake_executor_plugin_submitit.reattach import ReattachedJobs
from snakemake_executor_plugin_submitit.registry import Record, Registry, job_fingerprint, record_key
from snakemake_executor_plugin_submitit.resources import Request, ResourceError, parse_request
from snakemake_executor_plugin_submitit.retries import plan_retry
from snakemake_executor_plugin_submitit.settings import ExecutorSettings
from snakemake_executor_plugin_submitit.slurm import Slurm, SubmissionRefused
from snakemake_executor_plugin_submitit.states import Kind, State
from snakemake_executor_plugin_submitit.submission import Submission
from snakemake_executor_plugin_submitit.work import Work

Cluster = Slurm | Local | Debug


class WorkflowExecutor(Protocol):
    """The part of the executor's interface that `Submissions` uses."""

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


class Submissions:
    """Submits and tracks all jobs of one workflow process."""

    def __init__(self, executor: WorkflowExecutor, cluster: Cluster, settings: ExecutorSettings) -> None:
        self._executor = executor
        self._workflow = executor.workflow
        self._cluster = cluster
        self._settings = settings
        self._registry = Registry(REGISTRY)
        self._reattached_jobs = ReattachedJobs(self._registry, cluster, executor.logger)
        self._active: dict[str, Submission] = {}
        self._ports = settings.first_and_last_port()
        self._submission_lock = threading.Lock()
        self._closed = False

    # validation

    def validate_all(self) -> None:
        """Check the resources of all jobs that the workflow will run, except jobs whose resources are not known yet.

        Raises:
            WorkflowError: Some rules have invalid resources. The message contains one line per invalid rule.
        """
        faults: dict[str, str] = {}
        for job in self._executor.dag.needrun_jobs():
            if job.is_local or job.rule.norun or job.rule.name in faults:
                continue
            try:
                if job.group is not None:
                    command.check_group_member(job)
                command.check_tasks(job, self._request(job), self._workflow)
            except ResourceError as fault:
                faults[job.rule.name] = str(fault)
            except (WorkflowError, RuleException):
                continue  # the resources depend on files that do not exist yet; they are checked on submission
        if faults:
            lines = [f"rule {name}: {fault}" for name, fault in faults.items()]
            raise WorkflowError("No job was submitted. These rules have invalid resources:\n" + "\n".join(lines))

    def _request(self, job: Any) -> Request:
        """Return a job's request. A group requests one task with the sum of its jobs' cores, memory and GPUs."""
        values = {name: value for name, value in job.resources.items() if str(value) != "<TBD>"}
        if job.is_group():
            for member in job.jobs:
                command.check_group_member(member)
            values = {name: value for name, value in values.items() if name not in command.TASK_RESOURCES}
        schedulable = set(self._workflow.global_resources) | {"_cores", "_nodes"}
        request = parse_request(values, job.threads, self._settings, schedulable)
        return request if isinstance(self._cluster, Slurm) else self._cluster.collapse(request)

    # submission

    def submit(self, jobs: Sequence[Any]) -> None:
        """Submit jobs. Jobs of the same rule with equal requests are submitted as arrays."""
        by_request: dict[tuple[str, Request], list[Submission]] = {}
        self._reattached_jobs.query_states(jobs)
        for job in jobs:
            try:
                submission = self._new_submission(job)
                if self._reattached_jobs.reattach(submission):
                    self._active[submission.job_id] = submission
                    self._executor.submitted(submission, register=False)
                else:
                    by_request.setdefault((job.name, submission.request), []).append(submission)
            except WorkflowError as fault:
                self._executor.refused(job, str(fault))
        size = self._settings.array_size
        for submissions in by_request.values():
            for first in range(0, len(submissions), size):
                self._submit_array(submissions[first : first + size])

    def _new_submission(self, job: Any) -> Submission:
        request = self._request(job)
        command.check_tasks(job, request, self._workflow)
        startup_mb = command.rank_startup_mb(job, self._workflow, inner=self._settings.inner_snakemake)
        logs = rank_logs(
            [str(path) for path in job.log] if not job.is_group() else [],
            self._settings.logdir,
            job.name,
            [] if job.is_group() else [str(value) for value in job.wildcards],
        )
        return Submission(
            job=job,
            key=record_key(job),
            fingerprint=job_fingerprint(job, self._workflow.persistence),
            request=request.with_startup_memory(startup_mb),
            folder=job_folder("unsent", logs),
        )

    def _submit_array(self, submissions: list[Submission]) -> None:
        accepted = self._submit_locked(submissions)
        if accepted is None:
            return
        for submission in submissions:
            if accepted:
                self._executor.submitted(submission)
            else:
                self._executor.refused(submission.job, submission.error)

    def _submit_locked(self, submissions: list[Submission]) -> bool | None:
        """Submit an array under a lock, because the scheduler's thread and the polling thread both call this method.

        Returns:
            Whether the cluster accepted the array, or None if the executor is shutting down.
        """
        with self._submission_lock:
            return None if self._closed else self._submit_now(submissions)

    def _submit_now(self, submissions: list[Submission]) -> bool:
        token = f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:8]}"
        for index, submission in enumerate(submissions):
            submission.token, submission.index = token, index
            submission.folder = job_folder(f"{token}-{index}", submission.folder.logs)
            submission.folder.root.mkdir(parents=True, exist_ok=True)
        request = submissions[0].request
        works = [self._work(submission) for submission in submissions]
        try:
            ids = self._cluster.submit(works, request, token, submissions[0].job.name)
        except SubmissionRefused as refused:
            for submission in submissions:
                submission.error = f"{self._cluster.name} rejected this job: {refused}"
            return False
        for submission, job_id in zip(submissions, ids, strict=True):
            submission.job_id, submission.submitted_at, submission.last = job_id, time.time(), Kind.PENDING
            self._write_record(submission)
            self._active[job_id] = submission
        return True

    def _work(self, submission: Submission) -> Work:
        job, request, settings = submission.job, submission.request, self._settings
        inner = None
        if settings.inner_snakemake or command.inner_snakemake_reason(job, self._workflow):
            inner = self._executor.inner_command(job, request.cpus_per_task, submission.folder.wait_for)
        return Work(
            title=f"rule {job.name}",
            folder=submission.folder,
            cwd=os.getcwd(),
            command=command.shell_command(job),
            inner=inner,
            environment={} if job.is_group() else command.thread_variables(job),
            shell=command.shell_executable(job),
            preparation=command.preparation(job, self._workflow),
            minutes=request.minutes,
            signal_delay_seconds=request.signal_delay_seconds(settings.signal_delay_seconds),
            max_requeues=settings.max_requeues,
            ports=self._ports,
        )

    # tracking

    def update(self, submission: Submission, state: State) -> Kind:
        """Process a job's state, and return the state for the executor to report. DONE and FAILED end the job."""
        kind = state.kind
        if kind is Kind.GONE:
            kind = self._cluster.outcome(submission.token, submission.job_id, submission.request.tasks)
            kind = Kind.DONE if kind is Kind.DONE else Kind.FAILED
        if kind is not submission.last and kind is not Kind.UNKNOWN:
            self._log_requeues(submission)
            submission.last = kind
        if kind is Kind.DONE:
            self._drop(submission)
            self._cluster.remove_files(submission.token, submission.job_id)
            shutil.rmtree(submission.folder.root, ignore_errors=True)
        elif kind is Kind.FAILED and self._resubmit(submission, state):
            return Kind.PENDING
        elif kind is Kind.FAILED:
            self._drop(submission)
        return kind

    def _resubmit(self, submission: Submission, state: State) -> bool:
        """Resubmit a failed job if its code did not cause the failure. Otherwise, set `submission.error`."""
        failure = first_failure(submission.folder)
        reason = failure.reason if failure else ""
        submission.error = error_message(
            "SLURM" if self._cluster.outlives_workflow_process else self._cluster.name,
            submission.job_id,
            state.name,
            failure,
            submission.folder,
            submission_folder(submission.token) / f"{submission.job_id}_0_log.out",
        )
        submission.first_log = failure.log if failure else submission.folder.rank_log(0)
        retry = plan_retry(submission.request, state, reason, self._settings)
        if retry is None:
            return False
        used, limit, setting = submission.retries, self._settings.retries, "--submitit-retries"
        if not retry.counts:
            used, limit, setting = submission.resubmissions, self._settings.max_requeues, "--submitit-max-requeues"
        if used >= limit:
            if used:
                submission.error += f"\nThe job was resubmitted {used} times, the maximum set by {setting}."
            return False
        old, before = submission.job_id, submission.error
        self._drop(submission)
        submission.request = retry.request
        if not self._submit_locked([submission]):
            submission.error = f"{before}\nThe job could not be resubmitted: {submission.error}"
            return False
        if retry.counts:
            submission.retries += 1
        else:
            submission.resubmissions += 1
        self._executor.logger.warning(
            f"SLURM job {old} (rule {submission.job.name}) ended with {reason or state.name}. It was resubmitted as "
            f"job {submission.job_id} {retry.change} ({used + 1} of at most {limit})."
        )
        return True

    def _log_requeues(self, submission: Submission) -> None:
        requeues = requeue.read_requeues(submission.folder.requeues)
        for number, record in enumerate(requeues[submission.requeues :], start=submission.requeues + 1):
            saved = "its progress is saved" if record["saved"] else "it did not report that its progress is saved"
            self._executor.logger.warning(
                f"SLURM job {submission.job_id} (rule {submission.job.name}) was requeued ({record['cause']}); {saved} "
                f"(requeue {number} of at most {self._settings.max_requeues})."
            )
        submission.requeues = len(requeues)

    def _write_record(self, submission: Submission) -> None:
        if self._cluster.outlives_workflow_process:
            record = Record(
                job_id=submission.job_id,
                token=submission.token,
                index=submission.index,
                tasks=submission.request.tasks,
                logs=str(submission.folder.logs),
                fingerprint=submission.fingerprint,
                submitted=submission.submitted_at,
            )
            self._registry.put(submission.key, record)

    def _drop(self, submission: Submission) -> None:
        self._active.pop(submission.job_id, None)
        self._registry.drop(submission.key)

    def close(self) -> list[str]:
        """Stop submitting jobs. Return the ids of all jobs that may still be on the cluster."""
        with self._submission_lock:
            self._closed = True
            return list(self._active)

    def drop_all(self) -> None:
        """Remove the records of all jobs after the jobs were cancelled."""
        for submission in list(self._active.values()):
            self._drop(submission)
