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
from dataclasses import replace
from pathlib import Path

import pytest

from snakemake_executor_plugin_submitit import processes, requeue
from snakemake_executor_plugin_submitit.failures import (
    Failure,
    error_message,
    failure_cause,
    first_failure,
    reserve_record,
    write_record,
)
from snakemake_executor_plugin_submitit.paths import JobFolder, job_folder, rank_logs
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
from snakemake_executor_plugin_submitit.requeue import JobStatus
from snakemake_executor_plugin_submitit.resources import Request
from snakemake_executor_plugin_submitit.retries import Retry, plan_retry
from snakemake_executor_plugin_submitit.settings import ExecutorSettings
from snakemake_executor_plugin_submitit.states import Kind, State
from snakemake_executor_plugin_submitit.work import Work
from workflow_runner import TRAINER, running, wait

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
    assert not running(members)


def test_requeues_are_counted_and_limited(tmp_path, monkeypatch):
    calls = tmp_path / "calls"
    (tmp_path / "scontrol").write_text(f'#!/bin/sh\necho "$@" >> {calls}\n')
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    folder = job_folder(str(tmp_path / "job"), tmp_path / "logs")
    folder.root.mkdir()
    work = Work("rule train", folder, str(tmp_path), "true", None, max_requeues=2)
    results = [requeue.requeue(work, RANK_1_OF_2, "preempted", saved=True) for _ in range(3)]
    assert results[:2] == ["", ""]
    assert "the job reached the maximum number of requeues (2" in results[2]
    assert calls.read_text() == "requeue 7\n" * 2
    assert [record["cause"] for record in requeue.read_requeues(folder.requeues)] == ["preempted"] * 2


def test_a_refused_requeue_has_a_different_reason_than_the_requeue_limit(tmp_path, monkeypatch):
    (tmp_path / "scontrol").write_text("#!/bin/sh\necho 'Requested operation is presently disabled' >&2; exit 1\n")
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    folder = job_folder(str(tmp_path / "job"), tmp_path / "logs")
    folder.root.mkdir()
    work = Work("rule train", folder, ".", "true", None, max_requeues=2)
    refused = requeue.requeue(work, RANK_1_OF_2, "preempted", saved=True)
    assert "SLURM refuses to requeue job 7: Requested operation is presently disabled" in refused
    assert requeue.reason_of(refused) == "REQUEUE_REFUSED"


@pytest.mark.parametrize(
    ("state", "preempt_time", "expected"),
    [
        ("RUNNING", "2026-01-01T00:00:00", JobStatus.PREEMPTED),
        ("RUNNING", "None", JobStatus.RUNNING),
        ("CANCELLED", "2026-01-01T00:00:00", JobStatus.ENDING),
        ("COMPLETING", "None", JobStatus.ENDING),
        ("PENDING", "None", JobStatus.ENDING),
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
    assert requeue.query_status("7") is expected


def test_incompletely_written_records_of_requeues_are_skipped(tmp_path):
    path = tmp_path / "requeues.jsonl"
    assert requeue.read_requeues(path) == []
    path.write_text('{"attempt": 0, "cause": "preempted"}\n{"attempt": 1, "cau')
    requeue._append(path, {"attempt": 2, "cause": "preempted"})
    assert [record["attempt"] for record in requeue.read_requeues(path)] == [0, 2]


def test_requeues_that_cannot_be_recorded_are_limited(tmp_path, monkeypatch):
    (tmp_path / "scontrol").write_text("#!/bin/sh\n")
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    folder = job_folder(str(tmp_path / "job"), tmp_path / "logs")
    folder.root.mkdir()
    folder.requeues.symlink_to(tmp_path / "missing" / "requeues.jsonl")  # opening this file for writing fails
    work = Work("rule train", folder, ".", "true", None, max_requeues=2)
    results = [requeue.requeue(work, replace(RANK_1_OF_2, attempt=n), "preempted", saved=True) for n in range(3)]
    assert results[:2] == ["", ""]
    assert results[2].startswith(requeue.LIMIT_REACHED)


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
    assert wait_for((str(path) for path in [late]), 10) == []
    assert late.exists()
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


def write_failure(folder: JobFolder, rank: int, when: float, reason: str) -> None:
    folder.attempt(0).mkdir(parents=True, exist_ok=True)
    record = {"rank": rank, "host": "n", "text": "text", "reason": reason, "time": when, "log": "none"}
    reserve_record(folder.failure(0, rank))
    write_record(folder.failure(0, rank), record)


def test_a_failure_takes_precedence_over_earlier_stops_of_other_ranks(tmp_path):
    folder = job_folder(str(tmp_path / "job"), tmp_path / "logs")
    for rank, when, reason in ((0, 1.0, "TERMINATED"), (1, 3.0, ""), (2, 2.0, "TERMINATED")):
        write_failure(folder, rank, when, reason)
    failure = first_failure(folder)
    assert failure is not None and failure.rank == 1


def test_a_damaged_failure_record_is_skipped(tmp_path):
    folder = job_folder(str(tmp_path / "job"), tmp_path / "logs")
    write_failure(folder, 1, 1.0, "")
    folder.failure(0, 0).write_text("")
    failure = first_failure(folder)
    assert failure is not None and failure.rank == 1


@pytest.mark.parametrize(
    ("state", "reason", "expected"),
    [
        ("FAILED", "TERMINATED", "TERMINATED"),
        ("UNKNOWN", "TERMINATED", "TERMINATED"),
        *(
            (state, "TERMINATED", state)
            for state in ("CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL", "PREEMPTED")
        ),
        ("FAILED", "REQUEUE_REFUSED", "REQUEUE_REFUSED"),
        ("CANCELLED", "REQUEUE_REFUSED", "CANCELLED"),
        ("FAILED", "", "FAILED"),
    ],
)
def test_the_final_state_takes_precedence_over_a_stop_from_outside_the_job(tmp_path, state, reason, expected):
    assert failure_cause(state, reason) == expected
    failure = Failure(0, "n1", "stopped by SIGTERM", reason, tmp_path / "none")
    folder = job_folder(str(tmp_path / "job"), tmp_path / "logs")
    assert f"SLURM job 7: {expected}" in error_message("SLURM", "7", state, failure, folder, tmp_path / "none")


def test_a_job_that_was_stopped_from_outside_is_resubmitted_and_a_cancelled_job_is_not():
    request, settings = Request(minutes=10), ExecutorSettings()
    retry = plan_retry(request, State(Kind.FAILED, "FAILED"), "TERMINATED", settings)
    assert retry == Retry(request, "to resume from its saved state", counts=True)
    for reason in ("TERMINATED", "REQUEUE_REFUSED", ""):
        assert plan_retry(request, State(Kind.FAILED, "CANCELLED"), reason, settings) is None


@pytest.mark.parametrize("state", ["CANCELLED", "DEADLINE", "BOOT_FAIL", "NODE_FAIL"])
def test_the_message_for_a_job_that_did_not_start_does_not_mention_the_file_system(tmp_path, state):
    folder = job_folder(str(tmp_path / "job"), tmp_path / "logs")
    message = error_message("SLURM", "7", state, None, folder, tmp_path / "none")
    assert message.endswith("The job ended before its ranks started.")


@pytest.mark.parametrize("state", ["FAILED", "UNKNOWN"])
def test_the_message_for_a_job_that_ran_without_a_log_mentions_the_file_system(tmp_path, state):
    folder = job_folder(str(tmp_path / "job"), tmp_path / "logs")
    message = error_message("SLURM", "7", state, None, folder, tmp_path / "none")
    assert message.endswith(f"Check that the nodes can access {tmp_path} on a shared file system.")


def test_the_message_contains_a_failure_that_could_not_be_recorded(tmp_path):
    folder = job_folder(str(tmp_path / "job"), tmp_path / "logs")
    error = "plugin.rank_failures.RankFailed: rule x: rank 1 on n2: exit status 3 (not recorded)"
    (tmp_path / "7_1_log.out").write_text(f"Traceback (most recent call last):\n{error}\n")
    message = error_message("SLURM", "7", "FAILED", None, folder, tmp_path / "7_0_log.out")
    assert "SLURM job 7: FAILED. First failure: rule x: rank 1 on n2: exit status 3 (not recorded)." in message


def test_rank_logs_are_next_to_the_rules_log_or_in_the_logdir_by_rule_and_wildcards():
    assert rank_logs(["logs/a.log"], Path("logdir"), "train", ["x"]) == Path("logs/a.log.ranks")
    assert rank_logs([], Path("logdir"), "train", ["x/y", "3"]) == Path("logdir/train/x_y_3")
    assert rank_logs([], Path("logdir"), "all", []) == Path("logdir/all/job")
