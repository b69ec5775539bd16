"""Process the states of jobs: report requeues, resubmit jobs, and describe failures."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from snakemake_executor_plugin_submitit import bundles, requeue
from snakemake_executor_plugin_submitit.failures import error_message, failure_cause, first_failure
from snakemake_executor_plugin_submitit.job_requests import Cluster
from snakemake_executor_plugin_submitit.paths import submission_folder
from snakemake_executor_plugin_submitit.retries import Retry, plan_retry
from snakemake_executor_plugin_submitit.settings import ExecutorSettings
from snakemake_executor_plugin_submitit.states import NOT_STARTED, Kind, State, ranks_decide
from snakemake_executor_plugin_submitit.step_errors import node_failed
from snakemake_executor_plugin_submitit.submission import Submission
from snakemake_executor_plugin_submitit.submissions import Submissions


class Outcomes:
    """Decides for each state of a job whether the job continues, has ended, or is submitted again."""

    def __init__(self, submissions: Submissions, cluster: Cluster, settings: ExecutorSettings, logger: Any) -> None:
        self._submissions = submissions
        self._cluster = cluster
        self._settings = settings
        self._logger = logger

    def update(self, submission: Submission, state: State | None) -> Kind:
        """Process a job's state, and return the state for the executor to report. DONE and FAILED end the job.

        Args:
            submission: The job.
            state: Its state, or None if the job waits for SLURM's submit limit or was rejected after it had waited.

        Raises:
            OSError: The job's files cannot be read or written. The state can be processed again.
        """
        if state is None:
            return Kind.FAILED if submission.error else Kind.PENDING
        if bundles.is_bundled(submission.job_id) and state.kind in (Kind.DONE, Kind.FAILED, Kind.GONE):
            state = bundles.state_of_job(submission.folder, state)
        kind = state.kind
        if ranks_decide(state):
            kind = self._cluster.outcome(submission.token, submission.job_id, submission.request.tasks)
            kind = Kind.DONE if kind is Kind.DONE else Kind.FAILED
        if kind is not submission.last and kind is not Kind.UNKNOWN:
            self._log_requeues(submission)
            submission.last = kind
        if kind is Kind.DONE:
            self._submissions.completed(submission)
        elif kind is Kind.FAILED and self._resubmit(submission, state):
            return Kind.PENDING
        elif kind is Kind.FAILED:
            self._submissions.ended(submission)
        return kind

    def _resubmit(self, submission: Submission, state: State) -> bool:
        """Resubmit a failed job if its code did not cause the failure. Otherwise, set `submission.error`."""
        failure = first_failure(submission.folder)
        output = submission_folder(submission.token) / f"{bundles.cluster_id(submission.job_id)}_0_log.out"
        if failure is None and state.name == "FAILED" and node_failed(output):
            state = replace(state, name="NODE_FAIL")
        reason = failure.reason if failure else ""
        cluster = "SLURM" if self._cluster.outlives_workflow_process else self._cluster.name
        if state.name == NOT_STARTED:
            submission.error = f"{cluster} job {submission.job_id} could not be started: {state.reason}"
            return False
        submission.error = error_message(
            cluster,
            bundles.cluster_id(submission.job_id),
            state.name,
            failure,
            submission.folder,
            output,
        )
        submission.first_log = failure.log if failure else submission.folder.rank_log(0)
        retry = plan_retry(submission.request, state, reason, self._settings)
        return retry is not None and self._resubmit_as(submission, retry, failure_cause(state.name, reason))

    def _resubmit_as(self, submission: Submission, retry: Retry, cause: str) -> bool:
        used, limit, setting = submission.retries, self._settings.retries, "--submitit-retries"
        if not retry.counts:
            used, limit, setting = submission.resubmissions, self._settings.max_requeues, "--submitit-max-requeues"
        if used >= limit:
            if used:
                submission.error += f"\nThe job was resubmitted {used} times, the maximum set by {setting}."
            return False
        old, before = submission.job_id, submission.error
        self._cluster.cancel([old])  # a requeue that SLURM processes late would run the job twice
        if not self._submissions.resubmit(submission, retry.request):
            submission.error = f"{before}\nThe job could not be resubmitted: {submission.error}"
            return False
        if retry.counts:
            submission.retries += 1
        else:
            submission.resubmissions += 1
        new = f"It was resubmitted as job {submission.job_id}" if submission.job_id else "It will be resubmitted"
        self._logger.warning(
            f"SLURM job {old} (rule {submission.job.name}) ended with {cause}. {new} {retry.change} "
            f"({used + 1} of at most {limit})."
        )
        return True

    def _log_requeues(self, submission: Submission) -> None:
        requeues = requeue.read_requeues(submission.folder.requeues)
        for number, record in enumerate(requeues[submission.requeues :], start=submission.requeues + 1):
            saved = "its progress is saved" if record["saved"] else "it did not report that its progress is saved"
            self._logger.warning(
                f"SLURM job {submission.job_id} (rule {submission.job.name}) was requeued ({record['cause']}); {saved} "
                f"(requeue {number} of at most {self._settings.max_requeues})."
            )
        submission.requeues = len(requeues)
