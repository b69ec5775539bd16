"""The attempts of a run, read from hand-written logs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mem.runs.attempts import read_attempts, total_seconds

# An attempt that was killed, an attempt that was stopped, and an attempt that finished.
LINES = [
    (100.0, {"event": "log", "id": "a"}),
    (101.0, {"event": "start"}),
    (103.0, {"event": "metrics", "step": 1, "metrics": {"train/loss": 1.0}}),
    (121.5, {"event": "metrics", "step": 0, "metrics": {"system/cpu_utilization_percentage": 1.0}}),
    (500.0, {"event": "start"}),
    (530.0, {"event": "end", "status": "stopped", "peak_memory_gb": 2.5}),
    (539.0, {"event": "metrics", "step": 1, "metrics": {"system/cpu_utilization_percentage": 1.0}}),
    (900.0, {"event": "start"}),
    (901.9, {"event": "end", "status": "finished", "seconds": 1.9, "attempts": 3}),
    (99999.0, {"event": "model", "name": "registered later"}),
]
SECONDS = [20.5, 30.0, 1.9]


def write_log(path: Path, lines: list[tuple[float, dict]]) -> Path:
    path.write_text("".join(json.dumps({"time": time, **event}) + "\n" for time, event in lines))
    return path


@pytest.fixture
def log(tmp_path) -> Path:
    return write_log(tmp_path / "log.jsonl", LINES)


def test_an_attempt_lasts_until_its_end_or_its_last_event(log):
    attempts = read_attempts(log)
    assert [attempt.seconds for attempt in attempts] == SECONDS
    assert [attempt.ended for attempt in attempts] == [False, True, True]
    assert [attempt.peak_memory_gb for attempt in attempts] == [0.0, 2.5, 0.0]


def test_a_killed_attempt_does_not_include_a_later_registration_or_a_truncated_line(tmp_path):
    log = write_log(tmp_path / "log.jsonl", [*LINES[:4], LINES[-1]])
    with open(log, "a", encoding="utf-8") as file:
        file.write('{"time": 5000, "event": "metr')
    assert [attempt.seconds for attempt in read_attempts(log)] == [20.5]


def test_the_seconds_of_an_earlier_version_are_replaced_by_the_sum_from_the_log(log):
    assert total_seconds({"seconds": 1.9, "attempts": 3}, log) == pytest.approx(52.4)


def test_recorded_seconds_are_used_if_they_are_a_sum_or_the_log_is_not_that_of_the_run(log, tmp_path):
    assert total_seconds({"seconds": 52.0, "attempts": 3, "attempt_seconds": [20, 30, 2]}, log) == 52.0
    assert total_seconds({"seconds": 1.9, "attempts": 1}, log) == 1.9
    assert total_seconds({"seconds": 1.9, "attempts": 3}, tmp_path / "missing.jsonl") == 1.9
