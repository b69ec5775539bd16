"""What happens inside a job: signals, saving, meeting, notes of failure."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from snakemake_executor_plugin_submitit import place as places
from snakemake_executor_plugin_submitit import processes, requeue
from snakemake_executor_plugin_submitit.failures import explain, first_failure
from snakemake_executor_plugin_submitit.paths import job_folder, rank_logs
from snakemake_executor_plugin_submitit.work import Work
from tests.waiting import wait

TRAINER = Path(__file__).parent / "trainer.py"
PLACE = places.Place("slurm", "7", 0, 1, 2, 0, 1, "127.0.0.1")


@pytest.fixture
def started(tmp_path):
    """Starts a command as a rank does; it is gone after the test."""
    running: list[subprocess.Popen] = []

    def start(command: str) -> subprocess.Popen:
        environment = {**os.environ, "SNAKEMAKE_SUBMITIT_SAVED": str(tmp_path / "saved")}
        running.append(processes.start(command, "/bin/bash", str(tmp_path), environment, None))
        return running[-1]

    yield start
    for process in running:
        processes.stop(process, 0)


@pytest.fixture
def trainer(started, tmp_path):
    """A training inside a shell inside a shell."""
    shutil.copy(TRAINER, tmp_path)
    process = started(f"bash -c '{sys.executable} trainer.py 3000 0.05 out.txt; exit $?'; exit $?")
    wait(lambda: (tmp_path / "out.starts0").exists())
    return process


def test_shells_and_programs_that_do_not_listen_survive_slurms_signals(started, tmp_path):
    process = started(f'{sys.executable} -c \'import time; open("up", "w").close(); time.sleep(60)\'; sleep 60')
    wait(lambda: (tmp_path / "up").exists())
    for member in processes.tree(process):
        for number in (signal.SIGUSR2, signal.SIGCONT, signal.SIGTERM):
            member.send_signal(number)
    time.sleep(0.5)
    assert process.poll() is None
    assert len(processes.tree(process)) == 2


def test_the_program_that_listens_is_asked_and_its_save_is_awaited(trainer, tmp_path):
    began = time.monotonic()
    assert requeue.save(trainer, tmp_path / "saved", 30) is True
    assert time.monotonic() - began < 10
    assert json.loads((tmp_path / "out.state0").read_text()) > 0
    assert trainer.poll() is None


def test_an_earlier_save_does_not_count(trainer, tmp_path):
    (tmp_path / "saved").touch()
    for member in processes.tree(trainer)[1:]:
        member.suspend()
    assert requeue.save(trainer, tmp_path / "saved", 1) is False


def test_nothing_is_awaited_of_a_program_that_cannot_save(started, tmp_path):
    assert requeue.save(started("sleep 60"), tmp_path / "saved", 30) is None


def test_stopping_lets_the_program_save_and_leaves_no_process(trainer, tmp_path):
    members = processes.tree(trainer)
    processes.stop(trainer, 10)
    assert (tmp_path / "out.state0").exists()
    assert not [member for member in members if member.is_running()]


def test_requeues_are_counted_and_bounded(tmp_path, monkeypatch):
    calls = tmp_path / "calls"
    (tmp_path / "scontrol").write_text(f'#!/bin/sh\necho "$@" >> {calls}\n')
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    folder = job_folder(str(tmp_path / "job"), tmp_path / "logs")
    folder.root.mkdir()
    work = Work("rule train", folder, str(tmp_path), "true", None, max_requeues=2)
    assert [requeue.requeue(work, PLACE, saved=True) for _ in range(2)] == ["", ""]
    assert "requeued as often as is allowed (2" in requeue.requeue(work, PLACE, saved=True)
    assert calls.read_text() == "requeue 7\n" * 2
    assert [note["cause"] for note in requeue.earlier(folder.requeues)] == ["preempted"] * 2


def test_a_site_without_the_right_to_requeue_is_told_from_a_spent_bound(tmp_path, monkeypatch):
    (tmp_path / "scontrol").write_text("#!/bin/sh\necho 'Requested operation is presently disabled' >&2; exit 1\n")
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    folder = job_folder(str(tmp_path / "job"), tmp_path / "logs")
    folder.root.mkdir()
    refused = requeue.requeue(Work("rule train", folder, ".", "true", None, max_requeues=2), PLACE, saved=True)
    assert "SLURM refuses to requeue job 7: Requested operation is presently disabled" in refused
    assert requeue.reason_of(refused) == "REQUEUE_REFUSED"


@pytest.mark.parametrize(
    ("state", "preempt_time", "expected"),
    [
        ("RUNNING", "2026-01-01T00:00:00", True),
        ("RUNNING", "None", False),
        ("CANCELLED", "2026-01-01T00:00:00", False),
        ("PENDING", "None", False),
    ],
)
def test_a_preemption_is_told_from_a_cancelled_job_and_from_a_failed_rank(
    tmp_path, monkeypatch, state, preempt_time, expected
):
    (tmp_path / "scontrol").write_text(
        f"#!/bin/sh\necho JobId=7 JobState={state} PreemptTime={preempt_time} Nodes=n1\n"
    )
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert requeue.is_preempted("7") is expected


def test_ranks_meet_where_rank_0_says_and_not_before(tmp_path):
    go = tmp_path / "go.json"
    assert places.published(go) is None
    chosen = places.choose(PLACE, (20000, 29999))
    places.publish(chosen, go)
    assert places.published(go) == chosen
    assert places.torch_variables(PLACE, chosen)["MASTER_PORT"] == str(chosen.port)


def test_a_node_whose_name_does_not_resolve_is_named(tmp_path):
    go = tmp_path / "go.json"
    places.publish(places.Rendezvous("no-such-node.invalid", 20000), go)
    with pytest.raises(places.CannotMeet, match=r"first node, no-such-node.invalid, does not resolve"):
        places.published(go)


def test_a_taken_port_is_passed_over():
    import socket

    with socket.socket() as taken:
        taken.bind(("", 0))
        port = taken.getsockname()[1]
        with pytest.raises(places.CannotMeet, match="--submitit-ports"):
            places.choose(PLACE, (port, port))


def test_inputs_that_appear_late_are_awaited(tmp_path):
    late = tmp_path / "late.txt"
    threading.Timer(0.5, late.touch).start()
    assert places.wait_for([str(late)], 10) == []
    assert places.wait_for([str(tmp_path / "never.txt")], 0.3) == [str(tmp_path / "never.txt")]


def test_the_error_tells_of_the_first_rank_that_failed_in_the_last_attempt(tmp_path):
    folder = job_folder(str(tmp_path / "job"), tmp_path / "logs")
    folder.logs.mkdir()
    for attempt, rank, when, text in ((0, 0, 1, "old"), (1, 0, 5, "lost the others"), (1, 3, 4, "exit status 9")):
        folder.attempt(attempt).mkdir(parents=True, exist_ok=True)
        log = folder.rank_log(rank)
        log.write_text(f"== rule x, attempt 1\nearlier\n== rule x, rank {rank}, attempt 2\nwords of rank {rank}\n")
        note = {"rank": rank, "host": "n2", "text": text, "reason": "", "time": when, "log": str(log)}
        folder.failure(attempt, rank).write_text(json.dumps(note))
    failure = first_failure(folder)
    assert failure is not None
    assert failure.rank == 3
    said = explain("SLURM", "7", "FAILED", failure, folder, tmp_path / "none")
    assert "SLURM job 7: FAILED. First to fail: rank 3 on n2: exit status 9." in said
    assert "    words of rank 3" in said
    assert "earlier" not in said


def test_logs_of_ranks_lie_beside_the_rules_log_or_by_rule_and_wildcards():
    assert rank_logs(["logs/a.log"], Path("else"), "train", ["x"]) == Path("logs/a.log.ranks")
    assert rank_logs([], Path("else"), "train", ["x/y", "3"]) == Path("else/train/x_y_3")
    assert rank_logs([], Path("else"), "all", []) == Path("else/all/job")
