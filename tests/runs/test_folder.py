"""The lock and the record of a run folder."""

from __future__ import annotations

import errno
import re
import subprocess
import sys
import time
from contextlib import ExitStack

import pytest

from mem.errors import UserError
from mem.files import write_text
from mem.runs.folder import RunFolder, read_record

HOLDER = """
import sys, time
from pathlib import Path
from mem.runs.folder import RunFolder
with RunFolder(Path(sys.argv[1])).locked(0):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


@pytest.mark.stage
def test_a_folder_in_use_is_reported_with_the_process_that_uses_it(tmp_path, holder):
    pattern = re.escape(f"{tmp_path} is in use by process {holder.pid} on ")
    with pytest.raises(UserError, match=pattern), RunFolder(tmp_path).locked(0.3, say=lambda text: None):
        pass


@pytest.mark.stage
def test_the_lock_is_released_when_its_process_is_killed(tmp_path, holder):
    holder.kill()
    holder.wait()
    with RunFolder(tmp_path).locked(0):
        pass


@pytest.mark.stage
def test_a_stage_waits_for_a_process_that_is_about_to_end(tmp_path, holder):
    messages: list[str] = []
    start = time.monotonic()
    with (
        subprocess.Popen(["sh", "-c", f"sleep 1; kill -9 {holder.pid}"]),
        RunFolder(tmp_path).locked(30, say=messages.append),
    ):
        assert time.monotonic() - start < 20
    assert len(messages) == 1
    assert f"Waiting for process {holder.pid}" in messages[0]


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (None, "finished", True),
        ("an earlier record", "finished", True),  # the other process was repeating the run
        ("finished", "finished", False),
        (None, None, False),
    ],
    ids=["finished meanwhile", "repeated meanwhile", "finished before", "unfinished"],
)
def test_a_process_that_waited_learns_whether_the_run_was_finished_meanwhile(before, after, expected, tmp_path):
    folder = RunFolder(tmp_path)
    if before is not None:
        folder.record.write_text(before)
    with ExitStack() as other:
        assert other.enter_context(folder.locked(0)) is False

        def finish(message: str) -> None:
            if after != before:
                write_text(folder.record, after)
            other.close()

        with folder.locked(30, say=finish) as finished_meanwhile:
            assert finished_meanwhile is expected


def test_a_file_system_without_locks_is_reported_but_not_an_error(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", refuse)
    messages: list[str] = []
    with RunFolder(tmp_path).locked(0, say=messages.append):
        pass
    assert messages == [f"{tmp_path}: the file system does not support locks. Do not start a second process here."]


def test_an_unfinished_run_has_no_record(tmp_path):
    with pytest.raises(UserError, match=r"this run is not finished \(no run.json\); `mem run STUDY` computes it"):
        read_record(tmp_path)
