"""Jobs that an earlier revision of the plugin submitted can still be loaded, run and re-attached.

`recorded/` contains the pickle of a queued job and a registry record, both written by that revision.
"""

from __future__ import annotations

import dataclasses
import pickle
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from snakemake_executor_plugin_submitit.paths import JobFolder
from snakemake_executor_plugin_submitit.queries import ListedJob
from snakemake_executor_plugin_submitit.reattach import ReattachedJobs
from snakemake_executor_plugin_submitit.registry import Record, Registry
from snakemake_executor_plugin_submitit.resources import Request
from snakemake_executor_plugin_submitit.slurm import Slurm
from snakemake_executor_plugin_submitit.states import Kind, State
from snakemake_executor_plugin_submitit.submission import Submission
from snakemake_executor_plugin_submitit.work import HeadProcess, Preparation, Work
from workflow_runner import TESTS

RECORDED = TESTS / "recorded"
KEY = "fedcba9876543210fedcba98"
TOKEN = "20250101-120000-0123abcd"
LOGS = Path("/project/train.log.ranks")
WORK = Work(
    title="rule train",
    folder=JobFolder(Path(f"/project/.snakemake/submitit/jobs/{TOKEN}-0"), LOGS),
    cwd="/project",
    command="set -euo pipefail; python train.py model.pt",
    inner="snakemake --snakefile Snakefile model.pt",
    environment={"OMP_NUM_THREADS": "8"},
    shell="/bin/bash",
    preparation=Preparation(
        outputs=(("model.pt", False), ("checkpoints", True)),
        logs=("train.log",),
        inputs=("data.csv",),
        latency_wait=5.0,
    ),
    minutes=90,
    signal_delay_seconds=60.0,
    max_requeues=7,
    ports=(21000, 21999),
    devices=("0", "1"),
    head=HeadProcess(4321, 1735732800.25),
)


def queued_work() -> Work:
    return pickle.loads((RECORDED / "queued_job.pkl").read_bytes()).function


@pytest.fixture
def registry(tmp_path):
    """A copy of the recorded registry."""
    return Registry(shutil.copytree(RECORDED / "registry", tmp_path / "registry"))


def test_a_queued_job_keeps_all_its_fields():
    work = queued_work()
    assert work == WORK
    for recorded in (work, work.preparation, work.head, work.folder):
        assert vars(recorded).keys() == {field.name for field in dataclasses.fields(recorded)}


def test_a_queued_job_uses_the_same_files():
    folder = queued_work().folder
    assert folder.wait_for == folder.root / "wait-for.txt"
    assert folder.requeues == folder.root / "requeues.jsonl"
    assert folder.saved == folder.root / "saved"
    assert folder.go(1) == folder.root / "attempt-1" / "go.json"
    assert folder.failure(1, 3) == folder.root / "attempt-1" / "failed-3.json"
    assert folder.rank_log(3) == LOGS / "rank3.txt"


@pytest.mark.stage
def test_a_queued_job_runs(tmp_path, monkeypatch):
    submitted = pickle.loads((RECORDED / "queued_job.pkl").read_bytes())
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "debug")
    monkeypatch.setenv("SUBMITIT_DEBUG_JOB_ID", "7")
    command = f"{sys.executable} -c 'import os; print(os.environ[\"OMP_NUM_THREADS\"])' > model.pt"
    folder = JobFolder(tmp_path / "job", tmp_path / "logs")
    work = replace(submitted.function, folder=folder, cwd=str(tmp_path), command=command, inner=None, head=None)
    (tmp_path / "data.csv").touch()
    work()
    assert (tmp_path / "model.pt").read_text() == "8\n"


def test_a_record_keeps_all_its_fields(registry):
    assert registry.read_all() == {
        KEY: Record(
            job_id="4711_2",
            token=TOKEN,
            index=2,
            tasks=8,
            logs=str(LOGS),
            fingerprint="0123456789abcdef01234567",
            submitted=1735732800.5,
        )
    }


class RunningJobs(Slurm):
    """A SLURM cluster on which every job runs the script of the recorded submission."""

    def site_name(self):
        return "any"

    def listed_jobs(self, ids):
        script = f"/project/.snakemake/submitit/submissions/{TOKEN}/job.sh"
        return {job_id: ListedJob(State(Kind.RUNNING, "RUNNING"), f"|{script}") for job_id in ids}


def test_a_recorded_job_is_reattached(registry, monkeypatch):
    messages = []
    monkeypatch.setattr("snakemake_executor_plugin_submitit.reattach.record_key", lambda job: KEY)
    cluster = RunningJobs(print, signal_delay_seconds=120)
    jobs = ReattachedJobs(registry, cluster, SimpleNamespace(info=messages.append), latency_wait=0)
    submission = Submission(
        job=None, key=KEY, fingerprint="0123456789abcdef01234567", request=Request(), folder=WORK.folder
    )
    jobs.query_states([None])
    assert jobs.reattach(submission)
    assert submission.job_id == "4711_2"
    assert submission.request.tasks == 8
    assert submission.folder.root.name == f"{TOKEN}-2"
    assert submission.folder.logs == LOGS
    assert messages == ["Re-attached to SLURM job 4711_2 of an earlier run (RUNNING)."]
