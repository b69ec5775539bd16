"""No points are lost or duplicated if the tracking server is killed, is too old, or has a different database schema."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from mem.errors import UserError
from mem.tracking.commands import sync
from mem.tracking.ui import UiOptions, open_ui
from tests.tracking.logs import open_log, send, steps
from tests.tracking.servers import START_SECONDS, free_port, mlflow_server, sent_steps


@pytest.mark.stage
def test_after_a_server_was_killed_during_training_every_point_arrives_once(root, monkeypatch):
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    log = open_log(root, "pretrain")
    step = 0

    def train(seconds: float) -> None:
        nonlocal step
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            step += 1
            log.scalars({"train/loss": step}, step)
            time.sleep(0.02)

    with open(root / "mirror.log", "wb") as out:
        mirror = subprocess.Popen(
            [sys.executable, "-m", "mem.cli", "track", "follow"], cwd=root, stdout=out, stderr=subprocess.STDOUT
        )
    try:
        with mlflow_server(root, port):
            deadline = time.monotonic() + START_SECONDS
            while not sent_steps(uri):
                train(0.5)
                assert time.monotonic() < deadline, (root / "mirror.log").read_text()
            train(2)
        train(6)  # while no server is running
        assert mirror.poll() is None
        with mlflow_server(root, port):
            deadline = time.monotonic() + START_SECONDS
            while len(sent_steps(uri)) < step:
                assert time.monotonic() < deadline, (root / "mirror.log").read_text()
                time.sleep(0.5)
            log.event("end", status="finished")
            mirror.terminate()
            assert mirror.wait(60) == 0, (root / "mirror.log").read_text()
            assert sent_steps(uri) == list(range(1, step + 1))
        assert f"The tracking server {uri} cannot be used" in (root / "mirror.log").read_text()
    finally:
        mirror.kill()
        mirror.wait()


class OldServer(BaseHTTPRequestHandler):
    """A server that responds to every request with 404 Not Found."""

    def do_POST(self) -> None:
        self.send_response(404)
        self.send_header("Content-Type", "text/plain")
        self.end_headers()
        self.wfile.write(b"Not Found")

    do_GET = do_POST

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.stage
def test_an_old_server_is_reported_and_nothing_is_lost(root, monkeypatch):
    log = open_log(root, "pretrain")
    log.scalars({"train/loss": 1.0}, 1)
    with HTTPServer(("127.0.0.1", 0), OldServer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.server_port}")
        try:
            with pytest.raises(UserError, match=r"does not support a request.* is older than .*Nothing is lost"):
                sync(root)
        finally:
            server.shutdown()
            thread.join()
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    send(root)
    assert steps(root, "pretrain") == [1]


def test_a_database_with_a_newer_schema_is_reported_and_not_changed(root):
    log = open_log(root, "pretrain")
    log.scalars({"train/loss": 1.0}, 1)
    path = root / "runs" / "mlflow.db"
    with contextlib.closing(sqlite3.connect(path)) as database:
        (before,) = database.execute("select version_num from alembic_version").fetchone()
        database.execute("update alembic_version set version_num = 'ffffffffffff'")
        database.commit()
    with pytest.raises(UserError, match=r"has the schema of another MLflow version.*Nothing is lost"):
        sync(root)
    with pytest.raises(UserError, match=r"has the schema of another MLflow version"):
        open_ui(root, UiOptions(port=free_port()))
    with contextlib.closing(sqlite3.connect(path)) as database:
        assert database.execute("select version_num from alembic_version").fetchone() == ("ffffffffffff",)
        database.execute("update alembic_version set version_num = ?", (before,))
        database.commit()
    send(root)
    assert steps(root, "pretrain") == [1]
