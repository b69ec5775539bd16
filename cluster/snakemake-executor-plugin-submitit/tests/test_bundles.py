"""Bundles: several jobs of a rule that run one after another in one job of the cluster."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import test_submissions
from snakemake_executor_plugin_submitit import bundles, rank
from snakemake_executor_plugin_submitit.paths import JobFolder, job_folder
from snakemake_executor_plugin_submitit.registry import Registry
from snakemake_executor_plugin_submitit.rendezvous import RankInfo
from snakemake_executor_plugin_submitit.resources import Request, ResourceError, parse_request
from snakemake_executor_plugin_submitit.run_bundle import run_bundle
from snakemake_executor_plugin_submitit.settings import ExecutorSettings
from snakemake_executor_plugin_submitit.states import Kind, State
from snakemake_executor_plugin_submitit.work import Bundle, Preparation, Work
from test_submissions import Cluster, ids, submit

executor = test_submissions.executor
REQUEST = "snakemake_executor_plugin_submitit.job_requests.JobRequests.checked_request"


@pytest.fixture
def in_bundles_of_three(executor, monkeypatch):
    monkeypatch.setattr(REQUEST, lambda self, job: Request(bundle=3))
    return executor


def test_jobs_are_submitted_in_bundles_and_found_again(in_bundles_of_three, tmp_path):
    cluster = Cluster()
    submit(in_bundles_of_three, cluster, 7)
    assert cluster.arrays == [3]
    expected = ["1_0#0", "1_0#1", "1_0#2", "1_1#3", "1_1#4", "1_1#5", "1_2#6"]
    assert ids(in_bundles_of_three) == expected
    found = Registry(tmp_path / ".snakemake/submitit/registry").read_all()
    assert [found[f"key{number}"].job_id for number in range(7)] == expected


def test_a_bundle_whose_files_cannot_be_written_fails_alone(in_bundles_of_three):
    submit(in_bundles_of_three, Cluster(full_disk_for={2}), 8)
    assert set(in_bundles_of_three.rejected) == {3, 4, 5}
    assert ids(in_bundles_of_three) == ["1_0#0", "1_0#1", "1_0#2", "1_1#3", "1_1#4"]


def test_the_size_of_an_array_counts_bundles(in_bundles_of_three):
    cluster = Cluster()
    submit(in_bundles_of_three, cluster, 7, array_size=2)
    assert cluster.arrays == [2, 1]
    assert ids(in_bundles_of_three)[-2:] == ["1_1#5", "2#0"]


def test_slurm_is_asked_about_bundles(in_bundles_of_three, monkeypatch):
    cluster = Cluster()
    cluster._poller = type("Poller", (), {"poll": lambda self, ids: {number: number.upper() for number in ids}})()
    assert cluster.poll(["a#0", "a#1", "b"]) == {"a#0": "A", "a#1": "A", "b": "B"}
    cancelled = []
    monkeypatch.setattr("snakemake_executor_plugin_submitit.slurm._scancel", lambda ids: cancelled.extend(ids) or "")
    cluster.cancel(["a#0", "a#1", "b"])
    assert cancelled == ["a", "b"]


def test_several_tasks_cannot_be_in_a_bundle():
    with pytest.raises(ResourceError, match="several tasks cannot be in a bundle"):
        parse_request({"bundle": 4, "tasks_per_node": 2}, 1, ExecutorSettings())


def record_failure(folder: JobFolder, text: str) -> None:
    folder.attempt(0).mkdir(parents=True)
    record = {"rank": 0, "host": "n", "text": text, "reason": "", "time": 1.0, "log": "log"}
    folder.failure(0, 0).write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("recorded", "bundle", "expected"),
    [
        ("completed", State(Kind.FAILED, "TIMEOUT"), (Kind.DONE, "COMPLETED")),
        ("exit status 2", State(Kind.DONE, "COMPLETED"), (Kind.FAILED, "FAILED")),
        ("exit status 2", State(Kind.FAILED, "OUT_OF_MEMORY"), (Kind.FAILED, "FAILED")),
        ("exit status 137", State(Kind.FAILED, "OUT_OF_MEMORY"), (Kind.FAILED, "OUT_OF_MEMORY")),
        ("", State(Kind.FAILED, "NODE_FAIL"), (Kind.FAILED, "NODE_FAIL")),
        ("", State(Kind.FAILED, "FAILED"), (Kind.FAILED, "TERMINATED")),
    ],
)
def test_the_state_of_a_job_is_that_of_its_command_or_of_its_bundle(tmp_path, monkeypatch, recorded, bundle, expected):
    monkeypatch.chdir(tmp_path)
    folder = job_folder("t-4", Path("logs"))
    folder.root.mkdir(parents=True)
    if recorded == "completed":
        folder.completed(0).write_text("0")
    elif recorded:
        record_failure(folder, recorded)
    state = bundles.state_of_job(folder, bundle)
    assert (state.kind, state.name) == expected


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A function that runs a bundle of commands in an attempt on SLURM, and returns the lines that they wrote."""
    monkeypatch.setattr(rank.processes.SignalFlags, "install", lambda self: None)

    def run_attempt(attempt: int, commands: list[str], service: str = "") -> list[str]:
        info = RankInfo("slurm", "7", attempt, 0, 1, 0, 1, "127.0.0.1")
        monkeypatch.setattr(rank, "current_rank_info", lambda: info)
        jobs = [
            Work("rule head", JobFolder(tmp_path / f"job-{n}", tmp_path / f"logs-{n}"), str(tmp_path), command, None)
            for n, command in enumerate(commands)
        ]
        run_bundle(Bundle(tuple(jobs), service))
        return (tmp_path / "lines").read_text().split()

    return run_attempt


@pytest.mark.stage
def test_a_job_that_fails_does_not_affect_the_others_and_a_requeue_repeats_only_what_has_not_ended(run, tmp_path):
    commands = ["echo a >> lines", "echo b >> lines; exit 3", "echo c >> lines"]
    assert run(0, commands) == ["a", "b", "c"]
    folders = [JobFolder(tmp_path / f"job-{n}", tmp_path) for n in range(3)]
    assert [bundles.recorded_outcome(folder) for folder in folders] == [Kind.DONE, Kind.FAILED, Kind.DONE]
    folders[2].completed(0).unlink()  # the bundle was requeued while the third job ran
    assert run(1, commands) == ["a", "b", "c", "c"]


@pytest.mark.stage
def test_each_job_has_its_own_preparation_and_log(run, tmp_path):
    folder = JobFolder(tmp_path / "job-0", tmp_path / "logs")
    output = tmp_path / "out" / "file"
    work = Work("rule head", folder, str(tmp_path), f"echo said; echo made > {output}; echo 1 >> lines", None)
    prepared = Preparation(outputs=((str(output), False),))
    run(0, ["echo 0 >> lines"])
    run_bundle(Bundle((Work(**{**vars(work), "preparation": prepared}),)))
    assert output.read_text() == "made\n"
    assert "said" in folder.rank_log(0).read_text()


@pytest.mark.stage
def test_a_service_runs_with_the_jobs_and_gives_them_a_variable(run, tmp_path):
    program = tmp_path / "service.py"
    program.write_text(
        "import sys, pathlib\nprint('ADDRESS=here', flush=True)\nsys.stdin.read()\npathlib.Path('ended').touch()\n"
    )
    assert run(0, ["echo $ADDRESS >> lines"] * 2, f"{sys.executable} {program}") == ["here", "here"]
    assert (tmp_path / "ended").exists()
    assert run(0, ["echo $ADDRESS- >> lines"], "no-such-program") == ["here", "here", "-"]
