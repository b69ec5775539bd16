"""Jobs that are requeued although their commands had completed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from snakemake_executor_plugin_submitit import rank as module
from snakemake_executor_plugin_submitit.paths import JobFolder
from snakemake_executor_plugin_submitit.rank import Rank
from snakemake_executor_plugin_submitit.rendezvous import RankInfo
from snakemake_executor_plugin_submitit.work import Preparation, Work

pytestmark = pytest.mark.stage


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A function that runs rank 0 of a job on SLURM whose command appends a line to `runs`."""
    monkeypatch.setattr(module.processes.SignalFlags, "install", lambda self: None)

    def run_rank(attempt: int, ranks: int = 1, command: str = "echo >> runs") -> int:
        info = RankInfo("slurm", "7", attempt, 0, ranks, 0, 1, "127.0.0.1")
        monkeypatch.setattr(module, "current_rank_info", lambda: info)
        folder = JobFolder(tmp_path / "job", tmp_path / "logs")
        work = Work("rule train", folder, str(tmp_path), command, None, preparation=Preparation())
        Rank(replace(work, ports=(20000, 29999))).run()
        return len((tmp_path / "runs").read_text().splitlines())

    return run_rank


def test_a_requeued_job_that_had_completed_is_not_repeated(run):
    assert run(attempt=0) == 1
    assert run(attempt=1) == 1


def test_a_job_with_a_rank_that_had_not_completed_is_repeated(run):
    assert run(attempt=0, ranks=2) == 1
    assert run(attempt=1, ranks=2) == 2


def test_a_completion_of_an_earlier_attempt_does_not_count_later(run, tmp_path):
    assert run(attempt=0, ranks=2) == 1
    with pytest.raises(module.RankFailed):
        run(attempt=1, ranks=2, command="exit 3")
    (tmp_path / "job" / "completed-1").write_text("0")
    assert run(attempt=2, ranks=2) == 2


def test_completions_of_the_same_attempt_do_not_count(run, tmp_path):
    assert run(attempt=0, ranks=2) == 1
    (tmp_path / "job" / "completed-1").write_text("1")
    assert run(attempt=1, ranks=2) == 2


def test_a_submission_starts_without_completions(run, tmp_path):
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "completed-0").write_text("0")
    assert run(attempt=0) == 1
