"""The log of a run: JSON lines that survive interruptions."""

from __future__ import annotations

import json
from pathlib import Path

from mem.tracking.log import JsonLines, NullLog, read_curve, read_events, run_status


def test_metrics_and_events_are_read_as_written(tmp_path):
    log = JsonLines(tmp_path / "log.jsonl")
    log.event("start", stage="pretrain")
    log.scalars({"train/loss": 0.5, "train/lr": 1e-3}, step=10)
    log.close()
    kinds = [event["event"] for event in read_events(tmp_path / "log.jsonl")]
    assert kinds == ["log", "start", "metrics"]
    assert read_curve(tmp_path / "log.jsonl", "train/loss") == [(10, 0.5)]


def test_each_metric_is_logged_once_per_step(tmp_path):
    log = JsonLines(tmp_path / "log.jsonl")
    for step in (1, 2, 3, 2, 3, 4):
        log.scalars({"train/loss": step}, step)
    log.scalars({"val/acc1": 7.0}, step=2)
    log.close()
    assert [step for step, _ in read_curve(tmp_path / "log.jsonl", "train/loss")] == [1, 2, 3, 4]
    assert read_curve(tmp_path / "log.jsonl", "val/acc1") == [(2, 7.0)]


def test_a_reopened_log_continues_after_its_last_step(tmp_path):
    for steps in (range(1, 5), range(3, 8)):
        log = JsonLines(tmp_path / "log.jsonl")
        log.event("start", stage="pretrain")
        for step in steps:
            log.scalars({"train/loss": step}, step)
        log.close()
    assert [step for step, _ in read_curve(tmp_path / "log.jsonl", "train/loss")] == list(range(1, 8))
    ids = [event["id"] for event in read_events(tmp_path / "log.jsonl") if event["event"] == "log"]
    assert len(ids) == 1
    with JsonLines(tmp_path / "log.jsonl") as log:
        assert len(log.attempts) == 2


def test_an_artifact_is_logged_once_even_if_its_step_is_recomputed(tmp_path):
    for steps in ((10, 20), (20, 30)):
        with JsonLines(tmp_path / "log.jsonl") as log:
            for step in steps:
                log.artifact(Path(f"step-{step}.png"), "reconstructions", step)
            log.artifact(Path("other.png"), "elsewhere", 10)
    found = [(e["path"], e["to"]) for e in read_events(tmp_path / "log.jsonl") if e["event"] == "artifact"]
    expected = [(f"step-{step}.png", "reconstructions") for step in (10, 20, 30)]
    assert sorted(found) == sorted([*expected, ("other.png", "elsewhere")])


def test_a_truncated_line_is_removed(tmp_path):
    path = tmp_path / "log.jsonl"
    log = JsonLines(path)
    log.scalars({"train/loss": 1.0}, 1)
    log.close()
    with open(path, "ab") as file:
        file.write(b'{"time": 1, "event": "metr')
    assert len(list(read_events(path))) == 2
    log = JsonLines(path)
    log.scalars({"train/loss": 2.0}, 2)
    log.close()
    assert read_curve(path, "train/loss") == [(1, 1.0), (2, 2.0)]
    assert all(json.loads(line) for line in path.read_text().splitlines())


def test_a_null_log_accepts_everything():
    log = NullLog()
    log.scalars({"train/loss": 1.0}, 1)
    log.event("start")


def test_the_status_of_an_unfinished_run_names_progress_speed_and_age(tmp_path):
    path = tmp_path / "log.jsonl"
    assert run_status(path, 0) == "-"
    with JsonLines(path) as log:
        log.event("start", stage="pretrain")
        start_time = list(read_events(path))[-1]["time"]
        assert run_status(path, start_time + 65) == "started, 1:05 ago"
        log.event("training", steps=200)
        log.scalars({"train/loss": 1.0, "train/images_per_s": 1234.4}, step=50)
        assert run_status(path, list(read_events(path))[-1]["time"] + 2) == "25 %, 1,234 img/s, 0:02 ago"
        log.scalars({"system/cpu_utilization_percentage": 3.0}, step=190)
        assert run_status(path, list(read_events(path))[-1]["time"] + 2) == "25 %, 1,234 img/s, 0:02 ago"
        log.event("end", status="stopped", reason="SIGTERM")
        log.scalars({"system/cpu_utilization_percentage": 3.0}, step=191)
        assert run_status(path, 0) == "stopped at 25 %"
