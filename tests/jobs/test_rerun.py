"""Rerun of a stage whose run is already finished."""

from __future__ import annotations

import contextlib

import pytest

from mem.distributed import World
from mem.jobs import job
from mem.runs.folder import RunFolder
from mem.tracking.log import JsonLines, read_events


@pytest.mark.parametrize("log_in_place", [True, False], ids=["complete", "killed after renaming the log"])
def test_a_rerun_marks_the_run_unfinished_and_keeps_its_old_log(log_in_place, tmp_path):
    folder = RunFolder(tmp_path)
    old = folder.log if log_in_place else tmp_path / "log-1.jsonl"
    with JsonLines(old) as log:
        log.scalars({"train/loss": 1.0}, 1)
    folder.record.write_text("{}")
    with contextlib.ExitStack() as stack:
        job._open_log(folder, World(), stack)
        assert not folder.finished()
    assert [event["event"] for event in read_events(folder.log)] == ["log"]
    assert [event["event"] for event in read_events(tmp_path / "log-1.jsonl")] == ["log", "metrics"]
    assert not (tmp_path / "log-2.jsonl").exists()
