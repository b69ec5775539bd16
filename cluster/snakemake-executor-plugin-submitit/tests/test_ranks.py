"""Ranks inside a job: signals, saving, requeues, the rendezvous and failures."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from snakemake_executor_plugin_submitit import processes, requeue
from snakemake_executor_plugin_submitit.failures import error_message, first_failure
from snakemake_executor_plugin_submitit.paths import job_folder, rank_logs
from snakemake_executor_plugin_submitit.rendezvous import (
    RankInfo,
    Rendezvous,
    RendezvousError,
    choose_rendezvous,
    publish_rendezvous,
    read_rendezvous,
    torch_variables,
    wait_for,
)
from snakemake_executor_plugin_submitit.work import Work
from workflow_runner import TRAINER, wait

pytestmark = pytest.mark.stage
RANK_1_OF_2 = RankInfo("slurm", "7", 0, 1, 2, 0, 1, "127.0.0.1")


@pytest.fixture
def started(tmp_path):
    """A function that starts a command as a rank does. The command is killed after the test."""
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
    """A simulated training program that runs inside two nested shells."""
    shutil.copy(TRAINER, tmp_path)
    process = started(f"bash -c '{sys.executable} trainer.py 3000 0.05 out.txt; exit $?'; exit $?")
    wait(lambda: (tmp_path / "out.starts0").exists())
    return process


def test_shells_and_programs_without_handlers_survive_slurms_signals(started, tmp_path):
    process = started(f'{sys.executable} -c \'import time; open("up", "w").close(); time.sleep(60)\'; sleep 60')
    wait(lambda: (tmp_path / "up").exists())
    for member in processes.process_tree(process):
        for number in (signal.SIGUSR2, signal.SIGCONT, signal.SIGTERM):
            member.send_signal(number)
    time.sleep(0.5)
    assert process.poll() is None
    assert len(processes.process_tree(process)) == 2


def test_the_rank_waits_until_a_program_with_a_handler_has_saved(trainer, tmp_path):
    began = time.monotonic()
    assert requeue.save(trainer, tmp_path / "saved", 30) is True
    assert time.monotonic() - began < 10
    assert json.loads((tmp_path / "out.state0").read_text()) > 0
    assert trainer.poll() is None


def test_the_file_from_an_earlier_save_is_ignored(trainer, tmp_path):
    (tmp_path / "saved").touch()
    for member in processes.process_tree(trainer)[1:]:
        member.suspend()
    assert requeue.save(trainer, tmp_path / "saved", 1) is False


def test_the_rank_does_not_wait_for_a_program_without_a_handler(started, tmp_path):
    assert requeue.save(started("sleep 60"), tmp_path / "saved", 30) is None


def test_stop_lets_the_program_save_and_leaves_no_process(trainer, tmp_path):
    members = processes.process_tree(trainer)
    processes.stop(trainer, 10)
    assert (tmp_path / "out.state0").exists()
    assert not [member for member in members if member.is_running()]


def test_requeues_are_counted_and_limited(tmp_path, monkeypatch):
    calls = tmp_path / "calls"
    (tmp_path / "scontrol").write_text(f'#!/bin/sh\necho "$@" >> {calls}\n')
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    folder = job_folder(str(tmp_path / "job"), tmp_path / "logs")
    folder.root.mkdir()
    work = Work("rule train", folder, str(tmp_path), "true", None, max_requeues=2)
    assert [requeue.requeue(work, RANK_1_OF_2, saved=True) for _ in range(2)] == ["", ""]
    assert "the job reached the maximum number of requeues (2" in requeue.requeue(work, RANK_1_OF_2, saved=True)
    assert calls.read_text() == "requeue 7\n" * 2
    assert [record["cause"] for record in requeue.read_requeues(folder.requeues)] == ["preempted"] * 2


def test_a_refused_requeue_has_a_different_reason_than_the_requeue_limit(tmp_path, monkeypatch):
    (tmp_path / "scontrol").write_text("#!/bin/sh\necho 'Requested operation is presently disabled' >&2; exit 1\n")
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    folder = job_folder(str(tmp_path / "job"), tmp_path / "logs")
    folder.root.mkdir()
    refused = requeue.requeue(Work("rule train", folder, ".", "true", None, max_requeues=2), RANK_1_OF_2, saved=True)
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
def test_preemption_is_distinguished_from_cancellation_and_from_a_failed_rank(
    tmp_path, monkeypatch, state, preempt_time, expected
):
    (tmp_path / "scontrol").write_text(
        f"#!/bin/sh\necho JobId=7 JobState={state} PreemptTime={preempt_time} Nodes=n1\n"
    )
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert requeue.is_preempted("7") is expected


def test_ranks_wait_for_the_rendezvous_that_rank_0_publishes(tmp_path):
    go = tmp_path / "go.json"
    assert read_rendezvous(go) is None
    chosen = choose_rendezvous(RANK_1_OF_2, (20000, 29999))
    publish_rendezvous(chosen, go)
    assert read_rendezvous(go) == chosen
    assert torch_variables(RANK_1_OF_2, chosen)["MASTER_PORT"] == str(chosen.port)


def test_the_error_names_a_node_whose_name_does_not_resolve(tmp_path):
    go = tmp_path / "go.json"
    publish_rendezvous(Rendezvous("no-such-node.invalid", 20000), go)
    with pytest.raises(RendezvousError, match=r"first node, no-such-node.invalid, does not resolve"):
        read_rendezvous(go)


def test_a_port_in_use_is_not_chosen():
    with socket.socket() as taken:
        taken.bind(("", 0))
        port = taken.getsockname()[1]
        with pytest.raises(RendezvousError, match="--submitit-ports"):
            choose_rendezvous(RANK_1_OF_2, (port, port))


def test_wait_for_returns_when_late_files_appear_and_names_missing_ones(tmp_path):
    late = tmp_path / "late.txt"
    threading.Timer(0.5, late.touch).start()
    assert wait_for([str(late)], 10) == []
    assert wait_for([str(tmp_path / "never.txt")], 0.3) == [str(tmp_path / "never.txt")]


def test_the_error_reports_the_first_failed_rank_of_the_last_attempt(tmp_path):
    folder = job_folder(str(tmp_path / "job"), tmp_path / "logs")
    folder.logs.mkdir()
    for attempt, rank, when, text in ((0, 0, 1, "old"), (1, 0, 5, "lost its peers"), (1, 3, 4, "exit status 9")):
        folder.attempt(attempt).mkdir(parents=True, exist_ok=True)
        log = folder.rank_log(rank)
        log.write_text(f"== rule x, attempt 1\nearlier\n== rule x, rank {rank}, attempt 2\noutput of rank {rank}\n")
        record = {"rank": rank, "host": "n2", "text": text, "reason": "", "time": when, "log": str(log)}
        folder.failure(attempt, rank).write_text(json.dumps(record))
    failure = first_failure(folder)
    assert failure is not None
    assert failure.rank == 3
    message = error_message("SLURM", "7", "FAILED", failure, folder, tmp_path / "none")
    assert "SLURM job 7: FAILED. First failure: rank 3 on n2: exit status 9." in message
    assert "    output of rank 3" in message
    assert "earlier" not in message


def test_rank_logs_are_next_to_the_rules_log_or_in_the_logdir_by_rule_and_wildcards():
    assert rank_logs(["logs/a.log"], Path("logdir"), "train", ["x"]) == Path("logs/a.log.ranks")
    assert rank_logs([], Path("logdir"), "train", ["x/y", "3"]) == Path("logdir/train/x_y_3")
    assert rank_logs([], Path("logdir"), "all", []) == Path("logdir/all/job")
