"""From Snakemake's jobs to the cluster's, and what happens to each until it has ended."""

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
from snakemake_executor_plugin_submitit.failures import explain, first_failure
from snakemake_executor_plugin_submitit.former import Former
from snakemake_executor_plugin_submitit.local import Local
from snakemake_executor_plugin_submitit.paths import REGISTRY, job_folder, rank_logs, submission_folder
from snakemake_executor_plugin_submitit.registry import Record, Registry, fingerprint_of, key_of
from snakemake_executor_plugin_submitit.resources import Request, ResourceFault, request_of
from snakemake_executor_plugin_submitit.retries import retry_of
from snakemake_executor_plugin_submitit.settings import ExecutorSettings
from snakemake_executor_plugin_submitit.slurm import Slurm, SubmissionRefused
from snakemake_executor_plugin_submitit.states import Kind, State
from snakemake_executor_plugin_submitit.submission import Submission
from snakemake_executor_plugin_submitit.work import Work

Cluster = Slurm | Local | Debug


class Head(Protocol):
    """What the executor offers."""

    workflow: Any
    dag: Any
    logger: Any

    def submitted(self, submission: Submission, *, register: bool = True) -> None:
        """The cluster has a job."""

    def refused(self, job: Any, message: str) -> None:
        """The cluster does not take a job."""

    def inner_command(self, job: Any, cores: int, wait_for: Path) -> str:
        """Snakemake's own command for a job."""
        ...


class Submissions:
    """All jobs of one head."""

    def __init__(self, head: Head, cluster: Cluster, settings: ExecutorSettings) -> None:
        self._head = head
        self._workflow = head.workflow
        self._cluster = cluster
        self._settings = settings
        self._registry = Registry(REGISTRY)
        self._former = Former(self._registry, cluster, head.logger)
        self._live: dict[str, Submission] = {}
        self._ports = settings.first_and_last_port()
        self._sending = threading.Lock()
        self._closed = False

    # before anything is submitted

    def validate_all(self) -> None:
        """Read the resources of every job that the workflow will run, as far as they are known.

        Raises:
            WorkflowError: With one line for each rule at fault.
        """
        faults: dict[str, str] = {}
        for job in self._head.dag.needrun_jobs():
            if job.is_local or job.rule.norun or job.rule.name in faults:
                continue
            try:
                if job.group is not None:
                    command.refuse_group_member(job)
                command.refuse_several_tasks(job, self._request(job), self._workflow)
            except ResourceFault as fault:
                faults[job.rule.name] = str(fault)
            except (WorkflowError, RuleException):
                continue  # what it depends on is not there yet; it is read again when the job is ready
        if faults:
            lines = [f"rule {name}: {fault}" for name, fault in faults.items()]
            raise WorkflowError("Nothing was submitted:\n" + "\n".join(lines))

    def _request(self, job: Any) -> Request:
        """What a job asks for. A group asks for one task with the sum of its jobs' cores, memory and GPUs."""
        values = {name: value for name, value in job.resources.items() if str(value) != "<TBD>"}
        if job.is_group():
            for member in job.jobs:
                command.refuse_group_member(member)
            values = {name: value for name, value in values.items() if name not in command.TASK_RESOURCES}
        schedulable = set(self._workflow.global_resources) | {"_cores", "_nodes"}
        request = request_of(values, job.threads, self._settings, schedulable)
        return request if isinstance(self._cluster, Slurm) else self._cluster.collapse(request)

    # submitting

    def submit(self, jobs: Sequence[Any]) -> None:
        """Submit jobs, those with equal requests together."""
        alike: dict[tuple[str, Request], list[Submission]] = {}
        self._former.ask(jobs)
        for job in jobs:
            try:
                submission = self._prepared(job)
                if self._former.take_up(submission):
                    self._live[submission.job_id] = submission
                    self._head.submitted(submission, register=False)
                else:
                    alike.setdefault((job.name, submission.request), []).append(submission)
            except WorkflowError as fault:
                self._head.refused(job, str(fault))
        size = self._settings.array_size
        for together in alike.values():
            for first in range(0, len(together), size):
                self._send(together[first : first + size])

    def _prepared(self, job: Any) -> Submission:
        request = self._request(job)
        command.refuse_several_tasks(job, request, self._workflow)
        request = request.with_room_to_start(command.rank_mb(job, self._workflow, inner=self._settings.inner_snakemake))
        logs = rank_logs(
            [str(path) for path in job.log] if not job.is_group() else [],
            self._settings.logdir,
            job.name,
            [] if job.is_group() else [str(value) for value in job.wildcards],
        )
        return Submission(
            job=job,
            key=key_of(job),
            fingerprint=fingerprint_of(job, self._workflow.persistence),
            request=request,
            folder=job_folder("unsent", logs),
        )

    def _send(self, submissions: list[Submission], *, again: bool = False) -> bool:
        """Submit some as one; whether the cluster took them. The poll's thread and the scheduler's both come here."""
        with self._sending:
            if self._closed:
                return False
            taken = self._send_now(submissions)
        for submission in submissions if not again else ():
            if taken:
                self._head.submitted(submission)
            else:
                self._head.refused(submission.job, submission.error)
        return taken

    def _send_now(self, submissions: list[Submission]) -> bool:
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
                submission.error = f"{self._cluster.name} did not take this job: {refused}"
            return False
        for submission, job_id in zip(submissions, ids, strict=True):
            submission.job_id, submission.submitted_at, submission.last = job_id, time.time(), Kind.PENDING
            self._record(submission)
            self._live[job_id] = submission
        return True

    def _work(self, submission: Submission) -> Work:
        job, request, settings = submission.job, submission.request, self._settings
        inner = None
        if settings.inner_snakemake or command.needs_snakemake(job, self._workflow):
            inner = self._head.inner_command(job, request.cpus_per_task, submission.folder.wait_for)
        return Work(
            title=f"rule {job.name}",
            folder=submission.folder,
            cwd=os.getcwd(),
            command=command.shell_command(job),
            inner=inner,
            environment={} if job.is_group() else command.environment(job),
            shell=command.executable(job),
            preparation=command.preparation(job, self._workflow),
            minutes=request.minutes,
            signal_delay_seconds=request.signal_delay_seconds(settings.signal_delay_seconds),
            max_requeues=settings.max_requeues,
            ports=self._ports,
        )

    # until the end

    def advance(self, submission: Submission, state: State) -> Kind:
        """Take note of a job's state; DONE and FAILED are for Snakemake, all else goes on."""
        kind = state.kind
        if kind is Kind.GONE:
            kind = self._cluster.outcome(submission.token, submission.job_id, submission.request.tasks)
            kind = Kind.DONE if kind is Kind.DONE else Kind.FAILED
        if kind is not submission.last and kind is not Kind.UNSURE:
            self._tell_requeues(submission)
            submission.last = kind
        if kind is Kind.DONE:
            self._ended(submission)
            self._cluster.forget(submission.token, submission.job_id)
            shutil.rmtree(submission.folder.root, ignore_errors=True)
        elif kind is Kind.FAILED and self._again(submission, state):
            return Kind.PENDING
        elif kind is Kind.FAILED:
            self._ended(submission)
        return kind

    def _again(self, submission: Submission, state: State) -> bool:
        """Submit a failed job again if its reason lies outside its code; otherwise set its error."""
        failure = first_failure(submission.folder)
        reason = failure.reason if failure else ""
        stdout = submission_folder(submission.token) / f"{submission.job_id}_0_log.out"
        submission.error = explain(
            self._cluster.name.upper() if self._cluster.outlives_head else self._cluster.name,
            submission.job_id,
            state.word,
            failure,
            submission.folder,
            stdout,
        )
        submission.first_log = failure.log if failure else submission.folder.rank_log(0)
        retry = retry_of(submission.request, state, reason, self._settings)
        if retry is None:
            return False
        used, most = submission.retries, self._settings.retries
        if not retry.counts:
            used, most = submission.resubmissions, self._settings.max_requeues
        if used >= most:
            if used:
                submission.error += f"\nIt was submitted again {used} times for such reasons (--submitit-retries)."
            return False
        old, before = submission.job_id, submission.error
        self._ended(submission)
        submission.request = retry.request
        if not self._send([submission], again=True):
            submission.error = f"{before}\nIt could not be submitted again: {submission.error}"
            return False
        if retry.counts:
            submission.retries += 1
        else:
            submission.resubmissions += 1
        self._head.logger.warning(
            f"SLURM job {old} (rule {submission.job.name}) ended with {reason or state.word}; submitted again as job "
            f"{submission.job_id}, {retry.change} ({used + 1} of at most {most})."
        )
        return True

    def _tell_requeues(self, submission: Submission) -> None:
        notes = requeue.earlier(submission.folder.requeues)
        for number, note in enumerate(notes[submission.requeues :], start=submission.requeues + 1):
            saved = "its work is saved" if note["saved"] else "it did not say that it had saved"
            self._head.logger.warning(
                f"SLURM job {submission.job_id} (rule {submission.job.name}) was requeued, {note['cause']}; {saved} "
                f"(requeue {number} of at most {self._settings.max_requeues})."
            )
        submission.requeues = len(notes)

    def _record(self, submission: Submission) -> None:
        if self._cluster.outlives_head:
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

    def _ended(self, submission: Submission) -> None:
        self._live.pop(submission.job_id, None)
        self._registry.drop(submission.key)

    def close(self) -> list[str]:
        """Submit nothing from now on; the ids of all that the cluster may still have, in whosever hands."""
        with self._sending:
            self._closed = True
            return list(self._live)

    def forget_all(self) -> None:
        """All were cancelled."""
        for submission in list(self._live.values()):
            self._ended(submission)
