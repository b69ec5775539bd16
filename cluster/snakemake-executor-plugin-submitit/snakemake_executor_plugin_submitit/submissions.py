"""Submit Snakemake jobs to the cluster, and keep track of the jobs that have not ended."""

from __future__ import annotations

import shutil
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from snakemake_interface_common.exceptions import WorkflowError

from snakemake_executor_plugin_submitit.arrays import ArraySender, WorkflowExecutor, disk_errors_reported
from snakemake_executor_plugin_submitit.job_requests import Cluster, JobRequests
from snakemake_executor_plugin_submitit.paths import REGISTRY, job_folder, rank_logs
from snakemake_executor_plugin_submitit.reattach import ReattachedJobs
from snakemake_executor_plugin_submitit.registry import Registry, job_fingerprint, record_key
from snakemake_executor_plugin_submitit.resources import Request
from snakemake_executor_plugin_submitit.settings import ExecutorSettings
from snakemake_executor_plugin_submitit.slurm import Slurm
from snakemake_executor_plugin_submitit.submission import Submission

_RETRY_SECONDS = 60
"""Seconds after which jobs that wait for SLURM's submit limit are submitted again even if no other job has ended."""


class Submissions:
    """The jobs that one workflow process submitted or re-attached to, and that have not ended."""

    def __init__(self, executor: WorkflowExecutor, cluster: Cluster, settings: ExecutorSettings) -> None:
        self._executor = executor
        self._workflow = executor.workflow
        self._cluster = cluster
        self._settings = settings
        self._requests = JobRequests(self._workflow, cluster, settings)
        self._registry = Registry(REGISTRY)
        self._sender = ArraySender(executor, cluster, settings, self._registry)
        self._reattached_jobs = ReattachedJobs(
            self._registry,
            cluster,
            executor.logger,
            latency_wait=float(self._workflow.execution_settings.latency_wait),
        )
        self._active: dict[str, Submission] = {}
        self._completed: dict[Any, Submission] = {}
        """Successful submissions by job, until Snakemake has processed their outputs."""
        self._waiting: deque[Submission] = deque()
        """Submissions that exceed SLURM's submit limit, in order."""
        self._limit_message = ""
        self._ended_since_retry = 0
        self._retry_at = 0.0
        # The scheduler's thread and the polling thread both submit jobs.
        self._submission_lock = threading.Lock()
        self._closed = False

    def begin(self) -> None:
        """Check the resources of all jobs that the workflow will run, and remove records of jobs that it will not run.

        Raises:
            WorkflowError: Some rules have invalid resources. The message contains one line per invalid rule.
        """
        dag = self._executor.dag
        self._requests.validate_all(dag)
        needed = set(dag.needrun_jobs())
        with disk_errors_reported(self._executor.logger):
            self._reattached_jobs.drop_finished([job for job in dag.jobs if job not in needed])

    # submission

    def submit(self, jobs: Sequence[Any]) -> None:
        """Submit jobs. Jobs of the same rule with equal requests are submitted as arrays."""
        by_request: dict[tuple[str, Request], list[Submission]] = {}
        try:
            self._reattached_jobs.query_states(jobs)
        except OSError as error:
            for job in jobs:
                self._executor.refused(job, f"The records of earlier jobs cannot be read: {error}")
            return
        for job in jobs:
            try:
                submission = self._new_submission(job)
                if self._reattached_jobs.reattach(submission):
                    self._active[submission.job_id] = submission
                    self._executor.submitted(submission, register=False)
                else:
                    by_request.setdefault((job.name, submission.request), []).append(submission)
            except (WorkflowError, OSError) as fault:
                self._executor.refused(job, str(fault))
        for submissions in by_request.values():
            for array in self._arrays(submissions):
                self._submit_array(array)
        self._warn_about_limit()

    def _arrays(self, submissions: Sequence[Submission]) -> Iterator[list[Submission]]:
        size = self._settings.array_size
        if isinstance(self._cluster, Slurm) and len(submissions) > 1:
            size = min(size, self._cluster.largest_array() or size)
        size *= submissions[0].request.bundle
        for first in range(0, len(submissions), size):
            yield list(submissions[first : first + size])

    def _new_submission(self, job: Any) -> Submission:
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
            request=self._requests.checked_request(job),
            folder=job_folder("unsent", logs),
        )

    def _submit_array(self, submissions: list[Submission]) -> None:
        with self._submission_lock:
            if self._closed:
                return
            if self._waiting:
                self._waiting.extend(submissions)
            else:
                self._send(submissions)
        for submission in submissions:
            if submission.error:
                self._executor.refused(submission.job, submission.error)
            else:
                self._executor.submitted(submission)

    def resubmit(self, submission: Submission, request: Request) -> bool:
        """Submit a failed job again with a new request.

        Returns:
            Whether the job was submitted, or waits for SLURM's submit limit. If not, `submission.error` is set.
        """
        self.ended(submission)
        with self._submission_lock:
            if self._closed:
                return False
            submission.request, submission.job_id, submission.error, submission.settled = request, "", "", None
            self._send([submission])
        self._warn_about_limit()
        return not submission.error

    def submit_waiting(self) -> None:
        """Submit the jobs that wait for SLURM's submit limit, if other jobs have ended or a minute has passed."""
        with self._submission_lock:
            if self._closed or not self._waiting:
                return
            if not self._ended_since_retry and time.monotonic() < self._retry_at:
                return
            size, self._ended_since_retry = max(1, self._ended_since_retry), 0
            waiting, self._waiting = self._waiting, deque()
            while waiting and not self._waiting:
                _, equal = next(groupby(waiting, key=lambda each: (each.job.name, each.request)))
                array = next(self._arrays(list(equal)))[:size]
                for _ in array:
                    waiting.popleft()
                self._send(array)
                size *= 2
            self._waiting.extend(waiting)
            self._retry_at = time.monotonic() + _RETRY_SECONDS
        if not self._waiting:
            self._limit_message = ""
            self._executor.logger.info("All jobs that waited for SLURM's submit limit were submitted.")

    def _send(self, submissions: Sequence[Submission]) -> None:
        """Submit an array. Afterwards, each of its jobs is active, has an error, or waits for SLURM's submit limit."""
        over_limit, message = self._sender.send(submissions, others_active=bool(self._active))
        self._active |= {each.job_id: each for each in submissions if each.job_id}
        if over_limit:
            self._waiting.extend(over_limit)
            self._limit_message = message
            self._retry_at = time.monotonic() + _RETRY_SECONDS

    # end of jobs

    def ended(self, submission: Submission) -> None:
        """Forget a job that ended without success."""
        self._remove_active(submission)
        with disk_errors_reported(self._executor.logger):
            self._registry.drop(submission.token, [submission.index], [submission.key])

    def completed(self, submission: Submission) -> None:
        """Process a job that ended with success. Its record is kept until Snakemake has processed the outputs."""
        self._remove_active(submission)
        self._completed[submission.job] = submission

    def processed(self, job: Any) -> None:
        """Remove the record and the files of a job whose outputs Snakemake has processed."""
        submission = self._completed.pop(job, None)
        if submission is None:
            return
        with disk_errors_reported(self._executor.logger):
            self._registry.drop(submission.token, [submission.index], [submission.key])
            self._cluster.remove_files(submission.token, submission.job_id, submission.index)
            shutil.rmtree(submission.folder.root, ignore_errors=True)

    def _remove_active(self, submission: Submission) -> None:
        if self._active.pop(submission.job_id, None) is not None:
            self._ended_since_retry += 1

    def close(self) -> list[str]:
        """Stop submitting jobs. Return the ids of all jobs that may still be on the cluster."""
        with self._submission_lock:
            self._closed = True
            self._waiting.clear()
            return list(self._active)

    def drop_all(self) -> None:
        """Remove the records of all jobs after the jobs were cancelled."""
        for submission in list(self._active.values()):
            self.ended(submission)

    # messages

    def _warn_about_limit(self) -> None:
        if self._waiting and self._limit_message:
            self._executor.logger.warning(
                f"SLURM's submit limit is reached ({self._limit_message}). {len(self._waiting)} jobs wait in this "
                "process and are submitted as other jobs end. To submit fewer jobs at a time, use --jobs."
            )
            self._limit_message = ""
