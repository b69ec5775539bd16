"""Submission of arrays: disk errors, site limits and the order of jobs that wait."""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from snakemake_executor_plugin_submitit import arrays, submissions
from snakemake_executor_plugin_submitit.resources import Request
from snakemake_executor_plugin_submitit.sbatch import ArrayTooLarge, SubmissionUnknown, SubmitLimitReached
from snakemake_executor_plugin_submitit.settings import ExecutorSettings
from snakemake_executor_plugin_submitit.slurm import Slurm
from snakemake_executor_plugin_submitit.submission import Submission
from snakemake_executor_plugin_submitit.submissions import Submissions
from snakemake_executor_plugin_submitit.work import Work

DISK_FULL = OSError(errno.ENOSPC, "No space left on device", "x.pkl")


@dataclass(frozen=True)
class Job:
    """A job of a rule, as far as submission reads it."""

    number: int
    name: str = "train"
    log: tuple = ()
    wildcards: tuple = ()

    def is_group(self) -> bool:
        return False


@dataclass
class Cluster(Slurm):
    """A SLURM cluster with limits, which records submitted arrays."""

    largest: int | None = None
    most_jobs: int = 10**6
    names_limit: bool = True
    full_disk_for: set[int] = field(default_factory=set)
    refusal: Exception | None = None
    arrays: list[int] = field(default_factory=list)
    stored: int = 0
    on_cluster: int = 0

    def site_name(self) -> str:
        return "site"

    def largest_array(self) -> int | None:
        return self.largest

    def store(self, work: Work, token: str, index: int) -> None:
        self.stored += 1
        if self.stored in self.full_disk_for:
            raise DISK_FULL

    def submit(self, token: str, count: int, request: Request, name: str) -> list[str]:
        if self.refusal:
            raise self.refusal
        if count > 16:
            raise ArrayTooLarge("Invalid job array specification")
        if self.on_cluster + count > self.most_jobs:
            raise SubmitLimitReached("AssocMaxSubmitJobLimit", certain=self.names_limit)
        self.on_cluster += count
        self.arrays.append(count)
        number = str(len(self.arrays))
        return [number] if count == 1 else [f"{number}_{index}" for index in range(count)]

    def remove_files(self, token: str, job_id: str, index: int) -> None:
        pass


class Executor:
    """Records what is reported to Snakemake."""

    def __init__(self) -> None:
        execution = SimpleNamespace(latency_wait=0)
        self.workflow = SimpleNamespace(execution_settings=execution, global_resources={}, persistence=None)
        self.dag = None
        self.messages: list[str] = []
        self.logger = SimpleNamespace(warning=self.messages.append, info=self.messages.append)
        self.accepted: list[Submission] = []
        self.rejected: dict[int, str] = {}

    def submitted(self, submission: Submission, *, register: bool = True) -> None:
        self.accepted.append(submission)

    def refused(self, job: Any, message: str) -> None:
        self.rejected[job.number] = message

    def inner_command(self, *arguments: Any) -> str:
        raise NotImplementedError


@pytest.fixture
def executor(tmp_path, monkeypatch) -> Executor:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(submissions, "record_key", lambda job: f"key{job.number}")
    monkeypatch.setattr("snakemake_executor_plugin_submitit.reattach.record_key", lambda job: f"key{job.number}")
    monkeypatch.setattr(submissions, "job_fingerprint", lambda job, persistence: "f")
    monkeypatch.setattr(arrays.ArraySender, "_work", lambda self, submission: None)
    monkeypatch.setattr("snakemake_executor_plugin_submitit.job_requests.JobRequests.checked_request",
                        lambda self, job: Request())  # fmt: skip
    return Executor()


def submit(executor: Executor, cluster: Cluster, count: int, array_size: int = 500) -> Submissions:
    made = Submissions(executor, cluster, ExecutorSettings(array_size=array_size))
    made.submit([Job(number) for number in range(count)])
    return made


def ids(executor: Executor) -> list[str]:
    return [submission.job_id for submission in executor.accepted]


def registry_files(tmp_path) -> list:
    return list((tmp_path / ".snakemake/submitit/registry").glob("*"))


def test_a_job_whose_files_cannot_be_written_fails_alone(executor):
    cluster = Cluster(full_disk_for={2})
    submit(executor, cluster, 4)
    assert cluster.arrays == [3]
    assert [submission.job.number for submission in executor.accepted] == [0, 2, 3]
    assert [submission.index for submission in executor.accepted] == [0, 1, 2]
    assert list(executor.rejected) == [1]
    assert "files cannot be written: [Errno 28] No space left on device: 'x.pkl'" in executor.rejected[1]


def test_no_job_is_submitted_without_a_record(executor, monkeypatch):
    def disk_full(self, records):
        raise DISK_FULL

    monkeypatch.setattr("snakemake_executor_plugin_submitit.registry.Registry.add", disk_full)
    cluster = Cluster()
    submit(executor, cluster, 2)
    assert cluster.arrays == []
    assert len(executor.rejected) == 2


def test_jobs_go_on_if_their_number_cannot_be_recorded(executor, monkeypatch, tmp_path):
    def disk_full(self, token, number):
        raise DISK_FULL

    monkeypatch.setattr("snakemake_executor_plugin_submitit.registry.Registry.set_number", disk_full)
    submit(executor, Cluster(), 2)
    assert ids(executor) == ["1_0", "1_1"]
    assert executor.messages == [
        "Cannot update the records in .snakemake/submitit/registry: [Errno 28] No space left on device: 'x.pkl'. Jobs "
        "are not affected."
    ]
    assert len(registry_files(tmp_path)) == 1


def test_arrays_respect_the_sites_largest_array(executor):
    cluster = Cluster(largest=5)
    submit(executor, cluster, 12)
    assert cluster.arrays == [5, 5, 2]


def test_arrays_are_halved_if_the_sites_limit_is_unknown(executor):
    cluster = Cluster()
    submit(executor, cluster, 40)
    assert cluster.arrays == [10, 10, 10, 10]
    assert not executor.rejected


def test_jobs_over_the_submit_limit_wait_and_are_submitted_as_others_end(executor):
    cluster = Cluster(most_jobs=3)
    made = submit(executor, cluster, 10)
    assert len(executor.accepted) == 10
    assert ids(executor).count("") == 7
    assert executor.messages == [
        "SLURM's submit limit is reached (AssocMaxSubmitJobLimit). 7 jobs wait in this process and are submitted as "
        "other jobs end. To submit fewer jobs at a time, use --jobs."
    ]
    made.submit_waiting()  # nothing has ended, and a minute has not passed
    assert sum(cluster.arrays) == 3
    while any(not job_id for job_id in ids(executor)):
        for submission in executor.accepted[:]:
            if submission.job_id and submission.job_id in made._active:
                made.completed(submission)
                cluster.on_cluster -= 1
        made.submit_waiting()
        assert cluster.on_cluster <= 3
    assert sum(cluster.arrays) == 10
    assert [s.job.number for s in sorted(executor.accepted, key=lambda s: int(s.job_id.split("_")[0]))] == list(
        range(10)
    )
    assert executor.messages[-1] == "All jobs that waited for SLURM's submit limit were submitted."


def test_waiting_jobs_are_tried_again_after_a_minute(executor, monkeypatch):
    cluster = Cluster(most_jobs=0)
    made = submit(executor, cluster, 2)
    cluster.most_jobs = 10
    made.submit_waiting()
    assert cluster.arrays == []
    monkeypatch.setattr(submissions, "_RETRY_SECONDS", 0)
    made._retry_at = 0
    made.submit_waiting()
    assert sum(cluster.arrays) == 2


def test_a_job_that_may_be_too_large_fails_if_no_other_job_runs(executor):
    submit(executor, Cluster(most_jobs=0, names_limit=False), 2)
    assert set(executor.rejected) == {0, 1}
    assert "slurm rejected this job: AssocMaxSubmitJobLimit" in executor.rejected[0]


def test_waiting_jobs_are_not_submitted_after_the_workflow_was_stopped(executor):
    cluster = Cluster(most_jobs=1)
    made = submit(executor, cluster, 3)
    cluster.most_jobs = 10
    assert made.close() == ["1"]
    made.submit_waiting()
    assert cluster.arrays == [1]


def test_the_record_of_a_submission_with_an_unknown_result_is_kept(executor, tmp_path):
    submit(executor, Cluster(refusal=SubmissionUnknown("Socket timed out")), 2)
    assert executor.rejected[0] == "Socket timed out. Run the same command again when SLURM responds."
    assert len(registry_files(tmp_path)) == 1


def test_a_rejected_submission_leaves_no_files(executor, tmp_path):
    submit(executor, Cluster(refusal=OSError(errno.EDQUOT, "Disk quota exceeded", "job.sh")), 2)
    assert "Disk quota exceeded" in executor.rejected[0]
    assert [path for path in (tmp_path / ".snakemake").rglob("*") if path.is_file()] == []


def test_the_record_of_a_successful_job_is_kept_until_snakemake_has_processed_its_outputs(executor, tmp_path):
    made = submit(executor, Cluster(), 1)
    (submission,) = executor.accepted
    made.completed(submission)
    assert len(registry_files(tmp_path)) == 1
    made.processed(submission.job)
    assert registry_files(tmp_path) == []


def test_only_the_user_can_access_job_files_with_every_umask(executor, tmp_path):
    before = os.umask(0)
    try:
        submit(executor, Cluster(), 1)
    finally:
        os.umask(before)
    state = tmp_path / ".snakemake/submitit"
    assert [stat.S_IMODE((state / name).stat().st_mode) for name in ("jobs", "submissions", "registry")] == [0o700] * 3
