"""No points are lost or duplicated if the tracking server is killed, is too old, or has a different database schema."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import requests
from mlflow.tracking import MlflowClient

from mem.errors import UserError
from mem.tracking.commands import sync
from mem.tracking.ui import open_ui
from tests.tracking.logs import open_log, send, steps

START_SECONDS = 120


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def mlflow_server(folder: Path, port: int) -> Iterator[subprocess.Popen]:
    """Run a real tracking server on the folder's database. The process group is killed at the end."""
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--backend-store-uri", f"sqlite:///{folder}/runs/mlflow.db"]
    command += ["--default-artifact-root", str(folder / "artifacts")]
    with open(folder / "server.log", "ab") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + START_SECONDS
        while True:
            with contextlib.suppress(requests.ConnectionError, requests.Timeout):
                if requests.get(f"http://127.0.0.1:{port}/health", timeout=5).ok:
                    break
            assert process.poll() is None, (folder / "server.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.2)
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def sent_steps(uri: str) -> list[int]:
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("set")
    runs = client.search_runs([experiment.experiment_id]) if experiment else []
    return sorted(p.step for run in runs for p in client.get_metric_history(run.info.run_id, "train/loss"))


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
        open_ui(root, "127.0.0.1", free_port())
    with contextlib.closing(sqlite3.connect(path)) as database:
        assert database.execute("select version_num from alembic_version").fetchone() == ("ffffffffffff",)
        database.execute("update alembic_version set version_num = ?", (before,))
        database.commit()
    send(root)
    assert steps(root, "pretrain") == [1]
