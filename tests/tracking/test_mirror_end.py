"""A mirror waits for the lock and for the server. It gives up only at the time limit after the request to end."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mem.tracking import limits, server
from tests.tracking.logs import open_log, steps
from tests.tracking.servers import START_SECONDS, free_port, mlflow_server, sent_steps
from tests.waiting import wait

pytestmark = pytest.mark.stage
FOLLOW = """
import sys
from pathlib import Path
from mem.tracking import limits
limits.LAST_PASS_SECONDS = float(sys.argv[1])
from mem.tracking.commands import follow
sys.exit(follow(Path(), int(sys.argv[2])))
"""
LOG = "mirror.log"


@pytest.fixture
def parent() -> Iterator[subprocess.Popen]:
    """A process that ends when its standard input is closed. It is not waited for, and becomes a zombie."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
    yield process
    process.communicate()


@pytest.fixture
def follow(root, parent) -> Iterator[Callable[[float], subprocess.Popen]]:
    """Function that starts a mirror with the given time limit."""
    mirrors: list[subprocess.Popen] = []

    def start(seconds: float = limits.LAST_PASS_SECONDS) -> subprocess.Popen:
        with open(root / LOG, "wb") as out:
            command = [sys.executable, "-c", FOLLOW, str(seconds), str(parent.pid)]
            mirrors.append(subprocess.Popen(command, cwd=root, stdout=out, stderr=out))
        return mirrors[-1]

    yield start
    for mirror in mirrors:
        mirror.kill()
        mirror.wait()


def wait_for_text(root: Path, text: str, mirror: subprocess.Popen) -> None:
    def shown() -> bool:
        assert mirror.poll() is None, (root / LOG).read_text()
        return text in (root / LOG).read_text()

    wait(shown)


def test_the_mirror_is_killed_only_after_it_could_end_by_itself():
    assert limits.LAST_PASS_SECONDS < limits.KILL_SECONDS


def test_a_mirror_waits_until_the_lock_is_released_and_then_sends_new_points(root, follow):
    log = open_log(root, "pretrain")
    log.scalars({"train/loss": 1.0}, 1)
    with server.sole_writer(root, 0):
        mirror = follow()
        wait_for_text(root, "Waiting until it ends.", mirror)
        with pytest.raises(subprocess.TimeoutExpired):
            mirror.wait(3)
    log.scalars({"train/loss": 2.0}, 2)
    mirror.terminate()
    assert mirror.wait(limits.KILL_SECONDS) == 0, (root / LOG).read_text()
    assert steps(root, "pretrain") == [1, 2]
    assert (root / LOG).read_text().count("Waiting until it ends.") == 1


@pytest.mark.parametrize("reason", ["SIGTERM", "parent"])
def test_a_mirror_that_must_end_while_it_waits_for_the_lock_still_sends_everything(root, follow, parent, reason):
    open_log(root, "pretrain").scalars({"train/loss": 1.0}, 1)
    with server.sole_writer(root, 0):
        mirror = follow()
        wait_for_text(root, "Waiting until it ends.", mirror)
        parent.stdin.close() if reason == "parent" else mirror.terminate()
        with pytest.raises(subprocess.TimeoutExpired):
            mirror.wait(3)
    assert mirror.wait(limits.KILL_SECONDS) == 0, (root / LOG).read_text()
    assert steps(root, "pretrain") == [1]


def test_a_mirror_that_never_gets_the_lock_ends_with_a_message(root, follow):
    with server.sole_writer(root, 0):
        mirror = follow(2)
        wait_for_text(root, "Waiting until it ends.", mirror)
        mirror.terminate()
        assert mirror.wait(limits.KILL_SECONDS) == 1
    last = (root / LOG).read_text().splitlines()[-1]
    assert "already sends the logs of this folder to MLflow (it holds runs/mlflow.lock)." in last
    assert "The remaining points were not sent within 2 s. Run `mem track sync` to send them." in last


def test_points_arrive_on_a_server_that_starts_after_the_request_to_end(root, follow, monkeypatch):
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    open_log(root, "pretrain").scalars({"train/loss": 1.0}, 1)
    mirror = follow()
    wait_for_text(root, f"The tracking server {uri} cannot be used", mirror)
    mirror.terminate()
    with pytest.raises(subprocess.TimeoutExpired):
        mirror.wait(5)
    with mlflow_server(root, port):
        assert mirror.wait(limits.KILL_SECONDS) == 0, (root / LOG).read_text()
        assert sent_steps(uri) == [1]
    assert f"{uri} can be used again." in (root / LOG).read_text()


def test_a_mirror_ends_at_the_time_limit_although_the_server_does_not_respond(root, follow, monkeypatch):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        silent.settimeout(START_SECONDS)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        mirror = follow(2)
        connection, _ = silent.accept()
        with connection:
            mirror.terminate()
            assert mirror.wait(limits.KILL_SECONDS) == 1
    assert "The remaining points were not sent within 2 s" in (root / LOG).read_text()
