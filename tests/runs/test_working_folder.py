"""A `runs/` folder belongs to one working folder."""

from __future__ import annotations

import errno
import fcntl
import re
from pathlib import Path

import pytest

from mem.errors import UserError
from mem.runs.working_folder import LOCK_FILE, OWNER_FILE, claim_runs, lock_working_folder


@pytest.fixture
def first(tmp_path) -> Path:
    """A working folder that uses its `runs/`."""
    folder = tmp_path / "first"
    folder.mkdir()
    claim_runs(folder)
    return folder


def make_folder(path: Path, runs: Path) -> Path:
    """Create a working folder whose `runs/` is a link."""
    path.mkdir()
    (path / "runs").symlink_to(runs)
    return path


def owner(folder: Path) -> str:
    return (folder / "runs" / OWNER_FILE).read_text().strip()


def test_the_working_folder_is_recorded_and_accepted_again(first):
    assert owner(first) == str(first)
    claim_runs(first)
    assert owner(first) == str(first)


def test_a_second_folder_that_shares_runs_is_refused_with_both_folders_and_advice(first, tmp_path):
    second = make_folder(tmp_path / "second", first / "runs")
    message = re.escape(f"{second}: its runs/ is also the runs/ of the working folder {first}. Two working folders")
    with pytest.raises(UserError, match=rf"{message}.*Run this command in {re.escape(str(first))}, or give this"):
        claim_runs(second)
    assert owner(first) == str(first)


def test_two_folders_with_links_to_the_same_folder_are_refused(tmp_path):
    (tmp_path / "scratch").mkdir()
    first, second = (make_folder(tmp_path / name, tmp_path / "scratch") for name in ("first", "second"))
    claim_runs(first)
    claim_runs(first)
    with pytest.raises(UserError, match="Two working folders cannot share runs/"):
        claim_runs(second)
    (second / "runs").unlink()
    (first / "runs").rename(second / "runs")
    claim_runs(second)
    assert owner(second) == str(second)


def test_a_file_of_another_user_is_only_read_by_the_same_folder(first, monkeypatch):
    monkeypatch.setattr("mem.files.write_text", lambda *_: pytest.fail("the file is written again"))
    claim_runs(first)


def test_a_moved_folder_is_recorded_with_its_new_path(first, tmp_path):
    moved = first.rename(tmp_path / "moved")
    claim_runs(moved)
    assert owner(moved) == str(moved)


def test_a_copied_folder_has_its_own_runs(first, tmp_path):
    copied = tmp_path / "copied"
    (copied / "runs").mkdir(parents=True)
    (copied / "runs" / OWNER_FILE).write_text((first / "runs" / OWNER_FILE).read_text())
    claim_runs(copied)
    assert owner(copied) == str(copied)
    assert owner(first) == str(first)


def test_a_folder_is_recognised_by_another_path(first, tmp_path):
    (tmp_path / "alias").symlink_to(first)
    claim_runs(tmp_path / "alias")
    assert owner(first) == str(first)


def test_a_file_system_without_locks_is_reported(tmp_path, monkeypatch):
    def unsupported(file: object, operation: int) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", unsupported)
    with pytest.raises(UserError, match=r"does not support locks \(flock\).*on Lustre, locks require the mount option"):
        lock_working_folder(tmp_path, "")


def test_a_lock_that_another_command_holds_for_a_moment_is_waited_for(tmp_path, monkeypatch):
    path = tmp_path / LOCK_FILE
    path.parent.mkdir()
    looking = open(path, "a+")
    fcntl.flock(looking, fcntl.LOCK_SH)
    monkeypatch.setattr("time.sleep", lambda seconds: looking.close())
    with lock_working_folder(tmp_path, ""):
        monkeypatch.setattr("time.sleep", lambda seconds: None)
        with pytest.raises(
            UserError, match=r"Another workflow process is running in this folder: process \d+ .*Wait\."
        ):
            lock_working_folder(tmp_path, "Wait.")
