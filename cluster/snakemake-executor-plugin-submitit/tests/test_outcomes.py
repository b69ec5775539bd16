"""Reactions to the states of jobs."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from snakemake_executor_plugin_submitit import outcomes
from snakemake_executor_plugin_submitit.outcomes import Outcomes
from snakemake_executor_plugin_submitit.paths import job_folder, submission_folder
from snakemake_executor_plugin_submitit.resources import Request
from snakemake_executor_plugin_submitit.settings import ExecutorSettings
from snakemake_executor_plugin_submitit.states import Kind, State
from snakemake_executor_plugin_submitit.submission import Submission


class Fixture:
    """A job on SLURM whose ranks recorded an outcome."""

    def __init__(self) -> None:
        self.recorded = Kind.GONE
        self.events: list[str] = []
        self.messages: list[str] = []
        folder = job_folder("t-0", Path("logs"))
        self.submission = Submission(
            SimpleNamespace(name="train"), "key", "f", Request(), folder, token="t", job_id="7"
        )
        cluster = SimpleNamespace(
            name="slurm",
            outlives_workflow_process=True,
            outcome=lambda token, job_id, tasks: self.recorded,
            cancel=lambda ids: self.events.append(f"cancel {ids[0]}"),
        )
        submissions = SimpleNamespace(
            completed=lambda submission: self.events.append("completed"),
            ended=lambda submission: self.events.append("ended"),
            resubmit=self._resubmit,
        )
        logger = SimpleNamespace(warning=self.messages.append)
        self._outcomes = Outcomes(submissions, cluster, ExecutorSettings(retries=1), logger)  # type: ignore[arg-type]

    def _resubmit(self, submission: Submission, request: Request) -> bool:
        self.events.append("resubmit")
        submission.job_id = "8"
        return True

    def update(self, name: str, kind: Kind = Kind.FAILED) -> Kind:
        return self._outcomes.update(self.submission, State(kind, name, "n1"))


@pytest.fixture
def job(tmp_path, monkeypatch) -> Fixture:
    monkeypatch.chdir(tmp_path)
    return Fixture()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("FAILED", Kind.FAILED),
        ("PREEMPTED", Kind.FAILED),
        ("TIMEOUT", Kind.FAILED),
        ("NODE_FAIL", Kind.FAILED),
        ("UNKNOWN", Kind.GONE),
    ],
)
def test_a_job_whose_ranks_all_succeeded_has_succeeded(job, name, kind):
    job.recorded = Kind.DONE
    assert job.update(name, kind) is Kind.DONE
    assert job.events == ["completed"]


def test_a_job_of_which_a_rank_failed_has_failed(job):
    job.recorded = Kind.FAILED
    assert job.update("FAILED") is Kind.FAILED
    assert job.events == ["ended"]


@pytest.mark.parametrize("name", ["CANCELLED", "OUT_OF_MEMORY"])
def test_a_cancelled_job_and_one_without_memory_have_failed_although_their_ranks_succeeded(job, name):
    job.recorded = Kind.DONE
    assert job.update(name) is not Kind.DONE
    assert "completed" not in job.events


def test_a_job_that_lost_a_node_is_resubmitted_once_the_old_job_is_cancelled(job):
    output = submission_folder("t") / "7_0_log.out"
    output.parent.mkdir(parents=True)
    output.write_text("srun: error: Aborting, io error and missing step on node 1\n")
    assert job.update("FAILED") is Kind.PENDING
    assert job.events == ["cancel 7", "resubmit"]
    assert job.messages == [
        "SLURM job 7 (rule train) ended with NODE_FAIL. It was resubmitted as job 8 without node n1 (1 of at most 1)."
    ]
    assert job.update("NODE_FAIL") is Kind.FAILED
    assert "The job was resubmitted 1 times, the maximum set by --submitit-retries." in job.submission.error


def test_a_job_that_could_not_be_started_is_reported_with_the_error(job):
    state = State(Kind.FAILED, outcomes.NOT_STARTED, reason="[Errno 28] No space left on device")
    assert job._outcomes.update(job.submission, state) is Kind.FAILED
    assert job.submission.error == "SLURM job 7 could not be started: [Errno 28] No space left on device"


def test_a_job_that_waits_is_pending_until_it_is_rejected(job):
    assert job._outcomes.update(job.submission, None) is Kind.PENDING
    job.submission.error = "rejected"
    assert job._outcomes.update(job.submission, None) is Kind.FAILED
