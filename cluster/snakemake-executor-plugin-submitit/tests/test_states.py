"""Job states from SLURM: parsing, and the choice between sacct and squeue."""

from __future__ import annotations

import pytest

from snakemake_executor_plugin_submitit.poller import StatePoller
from snakemake_executor_plugin_submitit.queries import read_sacct, read_squeue
from snakemake_executor_plugin_submitit.states import Kind

pytestmark = pytest.mark.stage


def kinds(states) -> dict[str, tuple[Kind, str]]:
    return {job: (state.kind, state.name) for job, state in states.items()}


def test_sacct_output_is_parsed_for_jobs_arrays_and_steps():
    text = "7|RUNNING|n1\n7.batch|RUNNING|n1\n8_1|COMPLETED|n2\n8_1.0|COMPLETED|n2\n8_[2-3,5%4]|PENDING|None assigned\n"
    text += "9|CANCELLED by 1000|n1\n10|NODE_FAIL|n1\n"
    assert kinds(read_sacct(text)) == {
        "7": (Kind.RUNNING, "RUNNING"),
        "8_1": (Kind.DONE, "COMPLETED"),
        "8_2": (Kind.PENDING, "PENDING"),
        "8_3": (Kind.PENDING, "PENDING"),
        "8_5": (Kind.PENDING, "PENDING"),
        "9": (Kind.FAILED, "CANCELLED"),
        "10": (Kind.UNKNOWN, "NODE_FAIL"),
    }


def test_a_failed_job_whose_step_ran_out_of_memory_has_that_state():
    text = "7|FAILED|n1\n7.batch|FAILED|n1\n7.0|OUT_OF_MEMORY|n1\n8|COMPLETED|n1\n8.0|OUT_OF_MEMORY|n1\n"
    assert kinds(read_sacct(text)) == {"7": (Kind.FAILED, "OUT_OF_MEMORY"), "8": (Kind.DONE, "COMPLETED")}


NOTICE = "*** Maintenance on Friday | 18:00 | read https://site/news ***\n\n"


@pytest.mark.parametrize("read", [read_sacct, read_squeue])
def test_lines_that_are_no_rows_are_skipped(read):
    expected = {"7": (Kind.RUNNING, "RUNNING"), "8_1": (Kind.DONE, "COMPLETED")}
    assert kinds(read(f"{NOTICE}7|RUNNING|n1\nWelcome\n8_1|COMPLETED|n2\n")) == expected
    assert read(NOTICE) == {}


def test_squeue_reports_the_reason_of_a_pending_job():
    states = read_squeue("7|PENDING||launch failed requeued held\n8|RUNNING|n1|None\n")
    assert states["7"].reason == "launch failed requeued held"


def test_the_reasons_of_pending_jobs_are_queried_with_squeue(commands, monkeypatch):
    monkeypatch.setattr("snakemake_executor_plugin_submitit.poller._REASONS_EVERY_SECONDS", 0)
    commands.prints("sacct", "7|PENDING|\n")
    commands.prints("squeue", "7|PENDING||JobHeldUser\n")
    poller = StatePoller(print)
    assert [poller.poll({"7"})["7"].reason for _ in range(2)] == ["", "JobHeldUser"]


def test_a_job_that_cannot_start_is_reported_with_the_reason_and_what_to_do(commands, monkeypatch):
    monkeypatch.setattr("snakemake_executor_plugin_submitit.poller._REASONS_EVERY_SECONDS", 0)
    monkeypatch.setattr("snakemake_executor_plugin_submitit.pending._WAIT_SECONDS", 0)
    commands.prints("sacct", "7|PENDING|\n")
    commands.prints("squeue", "7|PENDING||PartitionTimeLimit\n")
    warnings = []
    poller = StatePoller(warnings.append)
    for _ in range(4):
        poller.poll({"7"})
    (warning,) = warnings
    assert warning.startswith("SLURM job 7 does not start. SLURM's reason: PartitionTimeLimit. Request fewer resources")


def test_states_of_squeue_are_final():
    assert kinds(read_squeue("7|PREEMPTED|n1\n8_4|REQUEUED|\n9|COMPLETING|n1\n")) == {
        "7": (Kind.FAILED, "PREEMPTED"),
        "8_4": (Kind.PENDING, "REQUEUED"),
        "9": (Kind.RUNNING, "COMPLETING"),
    }


def names(commands) -> list[str]:
    return [call.split()[0] for call in commands.calls()]


def test_a_poll_is_a_single_query_for_any_number_of_jobs(commands):
    ids = {f"8_{n}" for n in range(1000)}
    commands.prints("sacct", "8_[0-999]|PENDING|\n")
    poller = StatePoller(print)
    assert {state.kind for state in poller.poll(ids).values()} == {Kind.PENDING}
    assert len(commands.calls()) == 1


def test_the_next_poll_uses_squeue_if_the_state_from_sacct_is_not_conclusive(commands):
    commands.prints("sacct", "7|NODE_FAIL|n1\n")
    commands.prints("squeue", "7|PENDING|\n")
    poller = StatePoller(print)
    assert poller.poll({"7"})["7"].kind is Kind.UNKNOWN
    assert poller.poll({"7"})["7"].kind is Kind.PENDING
    assert names(commands) == ["sacct", "squeue"]


def test_without_accounting_squeue_is_used_and_one_warning_is_logged(commands):
    commands.fails("sacct", "Slurm accounting storage is disabled")
    commands.prints("squeue", "7|RUNNING|n1\n")
    warnings = []
    poller = StatePoller(warnings.append)
    assert [poller.poll({"7"})["7"].kind for _ in range(4)] == [Kind.UNKNOWN, *[Kind.RUNNING] * 3]
    assert names(commands) == ["sacct", "squeue", "squeue", "squeue"]
    assert warnings == [
        "Cannot query job states with SLURM's sacct: Slurm accounting storage is disabled. For one minute, squeue is "
        "queried instead. Jobs are not affected."
    ]


def test_states_are_unknown_while_neither_source_responds(commands):
    commands.fails("sacct", "Connection refused")
    commands.fails("squeue", "Unable to contact slurm controller")
    poller = StatePoller(lambda text: None)
    assert {poller.poll({"7"})["7"].kind for _ in range(5)} == {Kind.UNKNOWN}


def test_a_job_that_neither_source_lists_is_gone(commands):
    commands.prints("sacct", "")
    commands.fails("squeue", "slurm_load_jobs error: Invalid job id specified")
    poller = StatePoller(print, forget_seconds=0)
    seen = [poller.poll({"7"})["7"].kind for _ in range(4)]
    assert seen[0] is Kind.UNKNOWN
    assert Kind.GONE in seen


def test_the_end_of_a_job_is_detected_even_if_the_database_missed_it(commands):
    commands.prints("sacct", "7|RUNNING|n1\n")
    commands.prints("squeue", "")
    poller = StatePoller(print, forget_seconds=0)
    assert Kind.GONE in [poller.poll({"7"})["7"].kind for _ in range(14)]


def test_a_node_failure_is_final_once_the_controller_no_longer_lists_the_job(commands):
    commands.prints("sacct", "7|NODE_FAIL|n1\n")
    commands.prints("squeue", "")
    poller = StatePoller(print, forget_seconds=0)
    states = [poller.poll({"7"})["7"] for _ in range(4)]
    assert (Kind.FAILED, "NODE_FAIL") in [(state.kind, state.name) for state in states]
