"""A finished run that is made once more."""

from __future__ import annotations

import contextlib

import pytest

from mem.distributed import World
from mem.jobs import job
from mem.runs.folder import RunFolder
from mem.tracking.log import JsonLines, read_events


@pytest.mark.parametrize("log_is_there", [True, False], ids=["whole", "killed while it was set aside"])
def test_it_counts_as_unfinished_at_once_and_its_old_log_stays(log_is_there, tmp_path):
    folder = RunFolder(tmp_path)
    old = folder.log if log_is_there else tmp_path / "log-1.jsonl"
    with JsonLines(old) as log:
        log.scalars({"train/loss": 1.0}, 1)
    folder.record.write_text("{}")
    with contextlib.ExitStack() as stack:
        job._open_log(folder, World(), stack)
        assert not folder.finished()
    assert [event["event"] for event in read_events(folder.log)] == ["log"]
    assert [event["event"] for event in read_events(tmp_path / "log-1.jsonl")] == ["log", "metrics"]
    assert not (tmp_path / "log-2.jsonl").exists()
