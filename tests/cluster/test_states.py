"""From SLURM's words to what the head does, in one query a poll."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from snakemake_executor_plugin_submitit.states import Kind, Watch, read_sacct, read_squeue


def kinds(states) -> dict[str, tuple[Kind, str]]:
    return {job: (state.kind, state.word) for job, state in states.items()}


def test_sacct_speaks_of_jobs_arrays_and_steps():
    text = "7|RUNNING|n1\n7.batch|RUNNING|n1\n8_1|COMPLETED|n2\n8_1.0|COMPLETED|n2\n8_[2-3,5%4]|PENDING|None assigned\n"
    text += "9|CANCELLED by 1000|n1\n10|NODE_FAIL|n1\n"
    assert kinds(read_sacct(text)) == {
        "7": (Kind.RUNNING, "RUNNING"),
        "8_1": (Kind.DONE, "COMPLETED"),
        "8_2": (Kind.PENDING, "PENDING"),
        "8_3": (Kind.PENDING, "PENDING"),
        "8_5": (Kind.PENDING, "PENDING"),
        "9": (Kind.FAILED, "CANCELLED"),
        "10": (Kind.UNSURE, "NODE_FAIL"),
    }


def test_a_step_that_ran_out_of_memory_says_why_its_job_failed():
    text = "7|FAILED|n1\n7.batch|FAILED|n1\n7.0|OUT_OF_MEMORY|n1\n8|COMPLETED|n1\n8.0|OUT_OF_MEMORY|n1\n"
    assert kinds(read_sacct(text)) == {"7": (Kind.FAILED, "OUT_OF_MEMORY"), "8": (Kind.DONE, "COMPLETED")}


def test_the_controller_is_believed_where_the_database_is_not():
    assert kinds(read_squeue("7|PREEMPTED|n1\n8_4|REQUEUED|\n9|COMPLETING|n1\n")) == {
        "7": (Kind.FAILED, "PREEMPTED"),
        "8_4": (Kind.PENDING, "REQUEUED"),
        "9": (Kind.RUNNING, "COMPLETING"),
    }


@pytest.fixture
def commands(tmp_path: Path, monkeypatch):
    """Fake sacct and squeue that print what is set, and count their calls."""

    def say(name: str, text: str = "", complaint: str = "") -> None:
        end = f"echo '{complaint}' >&2; exit 1" if complaint else f"printf '{text}'"
        (tmp_path / name).write_text(f"#!/bin/sh\necho {name} >> {tmp_path}/calls\n{end}\n")
        (tmp_path / name).chmod(0o755)

    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    say.calls = lambda: (tmp_path / "calls").read_text().split() if (tmp_path / "calls").exists() else []
    return say


def test_a_poll_is_one_query_however_many_jobs_there_are(commands):
    ids = {f"8_{n}" for n in range(1000)}
    commands("sacct", "8_[0-999]|PENDING|\\n")
    watch = Watch(print)
    assert {state.kind for state in watch.poll(ids).values()} == {Kind.PENDING}
    assert commands.calls() == ["sacct"]


def test_where_the_database_cannot_tell_the_next_poll_asks_the_controller(commands):
    commands("sacct", "7|NODE_FAIL|n1\\n")
    commands("squeue", "7|PENDING|\\n")
    watch = Watch(print)
    assert watch.poll({"7"})["7"].kind is Kind.UNSURE
    assert watch.poll({"7"})["7"].kind is Kind.PENDING
    assert commands.calls() == ["sacct", "squeue"]


def test_without_accounting_the_controller_is_asked_and_it_is_said_once(commands):
    commands("sacct", complaint="Slurm accounting storage is disabled")
    commands("squeue", "7|RUNNING|n1\\n")
    said = []
    watch = Watch(said.append)
    assert [watch.poll({"7"})["7"].kind for _ in range(4)] == [Kind.UNSURE, *[Kind.RUNNING] * 3]
    assert commands.calls() == ["sacct", "squeue", "squeue", "squeue"]
    assert said == [
        "No states from SLURM's sacct: Slurm accounting storage is disabled; squeue is asked instead, for a minute. "
        "Jobs are not touched."
    ]


def test_no_answer_at_all_is_no_verdict(commands):
    commands("sacct", complaint="Connection refused")
    commands("squeue", complaint="Unable to contact slurm controller")
    watch = Watch(lambda text: None)
    assert {watch.poll({"7"})["7"].kind for _ in range(5)} == {Kind.UNSURE}


def test_a_job_that_neither_knows_any_more_is_gone(commands):
    commands("sacct")
    commands("squeue", complaint="slurm_load_jobs error: Invalid job id specified")
    watch = Watch(print, forget_seconds=0)
    seen = [watch.poll({"7"})["7"].kind for _ in range(4)]
    assert seen[0] is Kind.UNSURE
    assert Kind.GONE in seen


def test_a_job_whose_end_the_database_missed_is_found_out(commands):
    commands("sacct", "7|RUNNING|n1\\n")
    commands("squeue")
    watch = Watch(print, forget_seconds=0)
    assert Kind.GONE in [watch.poll({"7"})["7"].kind for _ in range(14)]


def test_a_node_failure_that_the_controller_has_forgotten_is_a_node_failure(commands):
    commands("sacct", "7|NODE_FAIL|n1\\n")
    commands("squeue")
    watch = Watch(print, forget_seconds=0)
    states = [watch.poll({"7"})["7"] for _ in range(4)]
    assert (Kind.FAILED, "NODE_FAIL") in [(state.kind, state.word) for state in states]
