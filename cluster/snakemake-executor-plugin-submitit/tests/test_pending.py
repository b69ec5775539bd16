"""Warnings about jobs that cannot start."""

from __future__ import annotations

import pytest

from snakemake_executor_plugin_submitit.pending import PendingJobs
from snakemake_executor_plugin_submitit.states import Kind, State


class Watched:
    """Pending jobs with a clock that the test sets."""

    def __init__(self) -> None:
        self.now = 0.0
        self.warnings: list[str] = []
        self._jobs = PendingJobs(self.warnings.append, clock=lambda: self.now)

    def observe(self, now: float, **reasons: str) -> list[str]:
        self.now = now
        self._jobs.observe({job[1:]: State(Kind.PENDING, "PENDING", "", text) for job, text in reasons.items()})
        return self.warnings


@pytest.fixture
def watched() -> Watched:
    return Watched()


def test_a_job_that_cannot_start_is_reported_once_after_a_minute(watched):
    assert watched.observe(0, _7="PartitionTimeLimit") == []
    assert watched.observe(59, _7="PartitionTimeLimit") == []
    expected = [
        "SLURM job 7 does not start. SLURM's reason: PartitionTimeLimit. Request fewer resources or less time for the "
        "rule, or use another partition, account or QOS."
    ]
    assert watched.observe(61, _7="PartitionTimeLimit") == expected
    assert watched.observe(500, _7="PartitionTimeLimit", _8="PartitionTimeLimit") == expected


def test_jobs_with_the_same_reason_share_a_warning(watched):
    for now in (0, 60):
        watched.observe(now, _8_11="JobHeldUser", _8_2="JobHeldUser", _9="Priority")
    assert watched.warnings == [
        "2 SLURM jobs (the first is 8_2) do not start. SLURM's reason: JobHeldUser. Release the jobs with `scontrol "
        "release 8_2`."
    ]


def test_a_changed_reason_starts_a_new_minute(watched):
    watched.observe(0, _7="JobHeldUser")
    watched.observe(50, _7="Priority")
    watched.observe(60, _7="JobHeldUser")
    assert watched.observe(110, _7="JobHeldUser") == []
    assert len(watched.observe(121, _7="JobHeldUser")) == 1


@pytest.mark.parametrize(
    "reason",
    [
        "", "None", "Priority", "Resources", "BeginTime", "Dependency", "JobArrayTaskLimit", "QOSMaxJobsPerUserLimit",
        "QOSMaxCpuPerUserLimit", "AssocMaxJobsLimit", "AssocGrpCpuLimit", "QOSGrpGRES", "QOSMaxGRESPerUser",
    ],
)  # fmt: skip
def test_a_job_that_waits_for_other_jobs_is_not_reported(watched, reason):
    watched.observe(0, _7=reason)
    assert watched.observe(1000, _7=reason) == []


@pytest.mark.parametrize(
    ("reason", "advice"),
    [
        ("AssocMaxWallDurationPerJobLimit", "Request fewer resources or less time"),
        ("AssocGrpCPUMinutesLimit", "has used up its budget"),
        ("JobHeldAdmin", "Ask the administrators"),
        ("job requeued in held state", "scontrol release 7"),
        ("launch failed requeued held", "A node failed to start the jobs"),
        ("Nodes required for job are DOWN, DRAINED or reserved for jobs in higher priority partitions", "`sinfo -R`"),
        ("ReqNodeNotAvail, UnavailableNodes:n1", "`sinfo -R`"),
        ("PartitionDown", "`sinfo -R`"),
        ("InvalidQOS", "Correct the account, the QOS or the partition"),
        ("SomeNewReason", "`scontrol show job 7` shows the details"),
    ],
)
def test_the_warning_says_what_to_do(watched, reason, advice):
    watched.observe(0, _7=reason)
    (warning,) = watched.observe(60, _7=reason)
    assert f"SLURM's reason: {reason}." in warning
    assert advice in warning
