"""Ranks of SLURM jobs that receive SIGTERM or SIGUSR2, while scontrol responds, hangs or is missing."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from snakemake_executor_plugin_submitit import requeue
from snakemake_executor_plugin_submitit.failures import first_failure
from snakemake_executor_plugin_submitit.paths import JobFolder, job_folder
from snakemake_executor_plugin_submitit.processes import process_tree
from snakemake_executor_plugin_submitit.work import Preparation, Work
from workflow_runner import TRAINER, wait

pytestmark = [pytest.mark.stage, pytest.mark.timeout(120)]
RUN = "import pickle, sys; pickle.load(open(sys.argv[1], 'rb'))()"
TRAIN = f"{sys.executable} trainer.py 3000 0.05 out.txt"
RUNNING = "echo JobId=7 JobState=RUNNING PreemptTime=None"
PREEMPTED = "echo JobId=7 JobState=RUNNING PreemptTime=2026-01-01T00:00:00"
COMPLETING = "echo JobId=7 JobState=COMPLETING PreemptTime=None"
HANGING = "exec sleep 600"


@pytest.fixture
def folder(tmp_path) -> JobFolder:
    """The folder of a job in whose working directory the training program is."""
    shutil.copy(TRAINER, tmp_path)
    created = job_folder(str(tmp_path / "job"), tmp_path / "logs")
    created.root.mkdir()
    return created


@pytest.fixture
def scontrol(tmp_path) -> Callable[..., None]:
    """A function that creates an scontrol command from the shell commands for `show` and `requeue`."""

    def create(show: str, requeue: str = "exit 0") -> None:
        (tmp_path / "bin").mkdir(exist_ok=True)
        path = tmp_path / "bin/scontrol"
        path.write_text(f"#!/bin/sh\necho $1 >> {tmp_path}/calls\nif [ $1 = show ]; then {show}; else {requeue}; fi\n")
        path.chmod(0o755)

    return create


@pytest.fixture
def rank(tmp_path, folder):
    """A function that starts a rank of SLURM job 7 as a process. The rank is killed after the test."""
    started: list[subprocess.Popen] = []

    def start(
        number: int = 0,
        *,
        command: str = TRAIN,
        tasks: int = 1,
        inputs: tuple[str, ...] = (),
        cluster: str = "slurm",
        path: str = os.environ["PATH"],
    ) -> subprocess.Popen:
        preparation = Preparation(inputs=inputs, latency_wait=60)
        work = Work("rule train", folder, str(tmp_path), command, None, preparation=preparation, max_requeues=2)
        (tmp_path / f"work{number}.pkl").write_bytes(pickle.dumps(work))
        variables = {
            "SUBMITIT_EXECUTOR": cluster, "PATH": f"{tmp_path}/bin:{path}", "SLURM_JOB_ID": "7",
            "SLURM_NTASKS": str(tasks), "SLURM_JOB_NUM_NODES": str(tasks), "SLURM_PROCID": str(number),
            "SUBMITIT_LOCAL_JOB_ID": "7", "SUBMITIT_LOCAL_NTASKS": str(tasks),
        }  # fmt: skip
        process = subprocess.Popen(
            [sys.executable, "-c", RUN, str(tmp_path / f"work{number}.pkl")],
            env={**os.environ, **variables},
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        for member in reversed(process_tree(process)):
            member.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()


def trains(tmp_path: Path, rank: int = 0) -> bool:
    return (tmp_path / f"out.starts{rank}").exists()


def send(process: subprocess.Popen, number: signal.Signals) -> None:
    """Send a signal to all processes of a rank, as SLURM does."""
    for member in process_tree(process):
        member.send_signal(number)


def test_a_rank_that_is_stopped_from_outside_the_job_saves_and_records_the_reason(tmp_path, folder, scontrol, rank):
    scontrol(RUNNING)
    process = rank()
    wait(lambda: trains(tmp_path))
    send(process, signal.SIGTERM)
    assert process.wait(20) == 143
    assert (tmp_path / "out.state0").exists()
    failure = first_failure(folder)
    assert failure is not None
    assert (failure.reason, failure.text) == ("TERMINATED", "stopped by SIGTERM from outside the job")


@pytest.mark.parametrize(("cluster", "show"), [("slurm", COMPLETING), ("local", RUNNING)])
def test_a_cancelled_rank_saves_and_records_no_failure(tmp_path, folder, scontrol, rank, cluster, show):
    scontrol(show)
    process = rank(cluster=cluster)
    wait(lambda: trains(tmp_path))
    send(process, signal.SIGTERM)
    assert process.wait(20) == 143
    assert (tmp_path / "out.state0").exists()
    assert first_failure(folder) is None


@pytest.mark.parametrize("show", [HANGING, "exit 1", "kill -9 $$"])
def test_a_program_saves_within_the_kill_wait_if_scontrol_does_not_respond(tmp_path, folder, scontrol, rank, show):
    scontrol(show)
    process = rank()
    wait(lambda: trains(tmp_path))
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)  # the program gets the signal from the rank only
    assert process.wait(30) == 143
    assert time.monotonic() - began < 25
    assert (tmp_path / "out.state0").exists()
    failure = first_failure(folder)
    assert failure is not None and failure.reason == "TERMINATED"


def test_a_program_that_handles_only_sigusr2_saves_before_it_is_stopped(tmp_path, folder, scontrol, rank):
    scontrol(RUNNING)
    text = (tmp_path / "trainer.py").read_text()
    (tmp_path / "trainer.py").write_text(text.replace("signal.signal(signal.SIGTERM", "(lambda *_: None)(signal"))
    process = rank()
    wait(lambda: trains(tmp_path))
    send(process, signal.SIGTERM)
    assert process.wait(20) == 143
    assert (tmp_path / "out.state0").exists()


def test_ranks_that_wait_before_their_command_record_the_reason(tmp_path, folder, scontrol, rank):
    scontrol(RUNNING)
    for number, options in ((0, {"inputs": ("missing.txt",)}), (1, {})):
        process = rank(number, tasks=2, **options)
        wait(lambda number=number: folder.failure(0, number).with_suffix(".part").exists(), process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 143
        record = json.loads(folder.failure(0, number).read_text())
        assert record["reason"] == "TERMINATED"
        folder.failure(0, number).unlink()
    assert not trains(tmp_path)


def test_a_waiting_rank_of_a_preempted_job_does_not_end_the_step(tmp_path, folder, scontrol, rank):
    scontrol(PREEMPTED)
    process = rank(1, tasks=2)
    wait(lambda: folder.failure(0, 1).with_suffix(".part").exists(), process)
    process.send_signal(signal.SIGTERM)
    wait(lambda: (tmp_path / "calls").exists(), process)
    time.sleep(1)
    assert process.poll() is None
    assert first_failure(folder) is None


def test_missing_inputs_are_waited_for(tmp_path, folder, scontrol, rank):
    scontrol(RUNNING)
    process = rank(inputs=("late.txt",))
    wait(lambda: folder.failure(0, 0).with_suffix(".part").exists(), process)
    time.sleep(1)
    assert not trains(tmp_path)
    (tmp_path / "late.txt").touch()
    wait(lambda: trains(tmp_path), process)


def test_a_failure_that_follows_the_stop_of_another_rank_does_not_hide_that_stop(tmp_path, folder, scontrol, rank):
    scontrol(RUNNING)
    waits = "until [ -e job/attempt-0/failed-1.json ]; do sleep 0.1; done; exit 3"
    first = rank(0, tasks=2, command=waits)
    second = rank(1, tasks=2)
    wait(lambda: trains(tmp_path, 1))
    send(second, signal.SIGTERM)
    assert first.wait(20) == 1
    assert second.wait(20) == 143
    assert "exit status 3, after another rank was stopped by SIGTERM" in folder.failure(0, 0).read_text()
    failure = first_failure(folder)
    assert failure is not None and failure.reason == "TERMINATED"


def test_a_rank_that_is_stopped_because_another_rank_failed_records_no_failure(tmp_path, folder, scontrol, rank):
    scontrol(RUNNING)
    first = rank(0, tasks=2)
    second = rank(1, tasks=2, command="until [ -e out.starts0 ]; do sleep 0.1; done; exit 3")
    assert second.wait(20) == 1
    send(first, signal.SIGTERM)  # like srun
    assert first.wait(20) == 143
    assert not folder.failure(0, 0).exists()
    failure = first_failure(folder)
    assert failure is not None and (failure.rank, failure.text, failure.reason) == (1, "exit status 3", "")


@pytest.mark.parametrize(
    ("requeue_command", "expected"),
    [
        (HANGING, "scontrol did not respond within 10 s"),
        ("exit 7", "scontrol ended with exit status 7"),
        ("rm $0; exit 1", "scontrol ended with exit status 1"),
    ],
)
def test_a_requeue_that_fails_after_saving_is_recorded_as_refused(
    tmp_path, folder, scontrol, rank, requeue_command, expected
):
    scontrol(RUNNING, requeue_command)
    process = rank()
    wait(lambda: trains(tmp_path))
    send(process, signal.SIGUSR2)
    assert process.wait(40) == 1
    assert (tmp_path / "out.state0").exists()
    failure = first_failure(folder)
    assert failure is not None
    assert (failure.reason, failure.text) == ("REQUEUE_REFUSED", f"SLURM refuses to requeue job 7: {expected}")


def test_a_program_that_completes_while_scontrol_hangs_does_not_fail(tmp_path, folder, scontrol, rank):
    scontrol(RUNNING, HANGING)
    process = rank()
    wait(lambda: trains(tmp_path))
    send(process, signal.SIGUSR2)
    wait(lambda: folder.requeues.exists(), process)
    (tmp_path / "enough").touch()
    assert process.wait(30) == 0
    assert first_failure(folder) is None


def test_a_missing_scontrol_is_a_refused_requeue(tmp_path, folder, rank):
    process = rank(path="")
    wait(lambda: trains(tmp_path))
    send(process, signal.SIGUSR2)
    assert process.wait(20) == 1
    failure = first_failure(folder)
    assert failure is not None
    assert failure.reason == "REQUEUE_REFUSED"
    assert "scontrol cannot be started" in failure.text


@pytest.mark.parametrize(("show", "cause"), [(PREEMPTED, "preempted"), (RUNNING, "received SIGUSR2")])
def test_the_requeue_states_whether_the_job_was_preempted(tmp_path, folder, scontrol, rank, show, cause):
    scontrol(show)
    process = rank()
    wait(lambda: trains(tmp_path))
    send(process, signal.SIGUSR2)
    wait(lambda: folder.requeues.exists() and folder.requeues.read_text(), process)
    (record,) = requeue.read_requeues(folder.requeues)
    assert (record["cause"], record["saved"]) == (cause, True)


def test_a_job_that_is_cancelled_while_it_saves_is_not_requeued(tmp_path, folder, scontrol, rank):
    scontrol(COMPLETING)
    process = rank()
    wait(lambda: trains(tmp_path))
    for member in process_tree(process)[1:]:
        member.suspend()
    process.send_signal(signal.SIGUSR2)
    time.sleep(1)
    process.send_signal(signal.SIGTERM)
    for member in process_tree(process)[1:]:
        member.resume()
    assert process.wait(30) == 143
    assert "requeue" not in (tmp_path / "calls").read_text()
    assert not folder.requeues.exists()


def test_a_job_is_requeued_although_the_requeue_cannot_be_recorded(tmp_path, folder, scontrol, rank):
    scontrol(RUNNING)
    folder.requeues.symlink_to(tmp_path / "missing" / "requeues.jsonl")  # opening this file for writing fails
    process = rank()
    wait(lambda: trains(tmp_path))
    send(process, signal.SIGUSR2)
    wait(lambda: (tmp_path / "calls").exists() and "requeue" in (tmp_path / "calls").read_text(), process)
    send(process, signal.SIGTERM)  # like SLURM after a requeue
    assert process.wait(20) == 143
    assert "was not recorded" in process.communicate()[1]


def test_the_reason_is_printed_if_the_failure_record_cannot_be_written(tmp_path, folder, scontrol, rank):
    scontrol(RUNNING, "echo not permitted >&2; exit 1")
    process = rank()
    wait(lambda: trains(tmp_path))
    folder.failure(0, 0).with_suffix(".part").unlink()
    folder.failure(0, 0).with_suffix(".part").symlink_to("/dev/full")
    send(process, signal.SIGUSR2)
    assert process.wait(20) == 1
    printed = process.communicate()[1]
    assert "SLURM refuses to requeue job 7: not permitted (this failure was not recorded in " in printed
    assert "No space left on device" in printed


def test_a_log_that_cannot_be_written_is_reported(tmp_path, folder, rank):
    folder.logs.mkdir()
    folder.rank_log(0).symlink_to("/dev/full")
    assert rank().wait(20) == 1
    failure = first_failure(folder)
    assert failure is not None
    assert failure.text.startswith(f"cannot write to the log {folder.rank_log(0)}: ")
    assert "No space left on device" in failure.text
