"""Atomic file writes, including failed writes."""

from __future__ import annotations

import os
import subprocess

import pytest

from mem import files


def test_a_file_appears_only_when_it_is_complete(tmp_path):
    with files.atomic(tmp_path / "deep" / "a.txt") as file:
        file.write("half")
        assert not (tmp_path / "deep" / "a.txt").exists()
        file.write(" and half")
    assert (tmp_path / "deep" / "a.txt").read_text() == "half and half"
    assert len(list((tmp_path / "deep").iterdir())) == 1


def test_an_existing_file_stays_if_writing_fails(tmp_path):
    path = tmp_path / "a.txt"
    files.write_text(path, "old")
    with pytest.raises(RuntimeError), files.atomic(path) as file:
        file.write("new")
        raise RuntimeError
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.stage
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system requires root")
def test_a_full_disk_leaves_only_the_old_file(tmp_path):
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting is not permitted")
    try:
        files.write_text(tmp_path / "a.txt", "old")
        with pytest.raises(OSError, match="No space left on device"):
            files.write_text(tmp_path / "a.txt", "x" * 1_000_000)
        assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
        assert (tmp_path / "a.txt").read_text() == "old"
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
