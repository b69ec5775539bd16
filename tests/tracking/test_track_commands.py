"""`mem track sync` and `mem track follow` as processes that are killed, outlive their parent, or find no server."""

from __future__ import annotations

import errno
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from mem.errors import UserError
from mem.tracking import server
from mem.tracking.commands import sync
from tests.tracking.logs import open_log, steps

FOLLOW = [sys.executable, "-m", "mem.cli", "track", "follow"]


def steps_if_any(root: Path) -> list[int]:
    try:
        return steps(root, "pretrain")
    except AssertionError:
        return []


@pytest.mark.stage
def test_after_a_mirror_was_killed_while_sending_the_next_one_completes_every_curve(root):
    log = open_log(root, "pretrain")
    process = subprocess.Popen(FOLLOW, cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 90
        step = 0
        while time.monotonic() < deadline and len(steps_if_any(root)) < 30:
            for _ in range(20):
                step += 1
                log.scalars({"train/loss": step, "train/lr": step}, step)
            time.sleep(0.05)
        assert len(steps_if_any(root)) >= 30
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    for _ in range(50):
        step += 1
        log.scalars({"train/loss": step, "train/lr": step}, step)
    assert sync(root) == 0
    for metric in ("train/loss", "train/lr"):
        assert Counter(steps(root, "pretrain", metric)) == Counter(range(1, step + 1))


@pytest.mark.stage
def test_follow_sends_the_rest_and_exits_when_its_parent_does(root):
    log = open_log(root, "pretrain")
    parent = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    mirror = subprocess.Popen([*FOLLOW, "--parent", str(parent.pid)], cwd=root)
    log.scalars({"train/loss": 1.0}, 1)
    time.sleep(1)
    parent.communicate(b"\n")
    assert mirror.wait(60) == 0
    assert steps(root, "pretrain") == [1]


def test_only_one_mirror_runs_in_a_folder(root):
    with server.sole_writer(root, 0) as first, server.sole_writer(root, 0) as second:
        assert (first, second) == (True, False)


def test_a_mirror_runs_on_a_file_system_without_locks(root, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", refuse)
    with server.sole_writer(root, 0) as acquired:
        assert acquired


def test_an_unavailable_server_is_reported_and_nothing_is_lost(root, monkeypatch):
    log = open_log(root, "pretrain")
    log.scalars({"train/loss": 1.0}, 1)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    with pytest.raises(UserError, match=rf"http://127\.0\.0\.1:{port} cannot be used.*`mem track sync` sends it"):
        sync(root)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    sync(root)
    assert steps(root, "pretrain") == [1]
