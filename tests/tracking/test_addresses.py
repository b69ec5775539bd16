"""Addresses of databases in folders with unusual names, and messages without passwords."""

from __future__ import annotations

import os
import shutil
import socket
import sqlite3
from pathlib import Path

import pytest

from mem.errors import UserError
from mem.tracking import server
from mem.tracking.addresses import database_path, shown, without_secrets
from mem.tracking.commands import sync
from mem.tracking.ui import UiOptions, open_ui
from tests.tracking.logs import client, mlflow_run, open_log

NAMES = ["what?", "a?b=c&uri=true", "a#b?", "50%?", "%3F?", "two words?", "größe?", "a;b?", 'it\'s "a" name?', "a\nb?"]


@pytest.mark.parametrize("name", NAMES)
def test_the_database_and_the_artifacts_are_in_the_working_folder(tmp_path, root, name):
    folder = root / name
    (folder / "runs").mkdir(parents=True)
    shutil.copy(root / "runs" / "mlflow.db", folder / "runs")
    before = {path.name for path in root.iterdir()}
    (folder / "table.md").write_text("| a |")
    open_log(folder, "pretrain").event("artifact", path="table.md", to="report")
    here = Path.cwd()
    try:
        os.chdir(root)
        assert sync(folder) == 0
    finally:
        os.chdir(here)
    with sqlite3.connect(folder / "runs" / "mlflow.db") as database:
        assert database.execute("SELECT count(*) FROM runs").fetchone() == (1,)
    database.close()
    run = mlflow_run(folder, "pretrain")
    assert [file.path for file in client(folder).list_artifacts(run.info.run_id, "report")] == ["report/table.md"]
    assert len(list((folder / "runs" / "mlflow-artifacts" / "set").rglob("table.md"))) == 1
    assert {path.name for path in root.iterdir()} == before  # nothing is stored elsewhere
    assert database_path(server.tracking_uri(folder)) == folder / "runs" / "mlflow.db"


def test_a_database_is_created_in_a_folder_with_a_question_mark(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = tmp_path / "what?"
    folder.mkdir()
    monkeypatch.chdir(tmp_path)
    assert list(server.all_runs(server.client(server.tracking_uri(folder)))) == []
    assert (folder / "runs" / "mlflow.db").stat().st_size > 0
    assert [path.name for path in tmp_path.iterdir()] == ["what?"]


def test_a_folder_whose_name_is_not_utf8_is_refused(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(UserError, match=r"path is not valid UTF-8\. Rename the folder, or set MLFLOW_TRACKING_URI"):
        server.tracking_uri(tmp_path / os.fsdecode(b"\xff"))


def test_the_ui_finds_the_database_in_a_folder_with_a_question_mark(root, monkeypatch):
    folder = root / "what?"
    (folder / "runs").mkdir(parents=True)
    shutil.copy(root / "runs" / "mlflow.db", folder / "runs")
    started: list[list[str]] = []

    def start(file, command, environment):
        started.append(command)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "execve", start)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(KeyboardInterrupt):
        open_ui(folder, UiOptions(port=port))
    assert server.tracking_uri(folder) in started[0]


SECRETS = {
    "http://me:secret@example.org:5000/mlflow": "http://***@example.org:5000/mlflow",
    "https://secret@example.org": "https://***@example.org",
    "http://me:sec/secret@example.org": "http://***@example.org",
    "http://example.org/?token=secret&user=secret": "http://example.org/?token=***&user=***",
    "postgresql+psycopg2://me:secret@db/mlflow?password=secret": "postgresql+psycopg2://***@db/mlflow?password=***",
}


@pytest.mark.parametrize("uri", SECRETS)
def test_messages_do_not_contain_secrets(uri):
    assert shown(uri) == SECRETS[uri]
    error = server.explain(uri, OSError(f"API request to {uri} failed"))
    assert "secret" not in error
    assert f"The tracking server {SECRETS[uri]} cannot be used: OSError: API request to {SECRETS[uri]}" in error


def test_the_values_of_mlflow_variables_are_not_shown(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "abcdef")
    assert without_secrets("header Bearer abcdef was refused") == "header Bearer *** was refused"


def test_sync_and_ui_hide_the_password_of_the_server(root, monkeypatch):
    open_log(root, "pretrain").scalars({"train/loss": 1.0}, 1)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:secret@127.0.0.1:{port}")
    with pytest.raises(UserError) as from_sync:
        sync(root)
    with pytest.raises(UserError) as from_ui:
        open_ui(root, UiOptions(port=port))
    for error in (from_sync, from_ui):
        assert "secret" not in str(error.value)
        assert f"http://***@127.0.0.1:{port}" in str(error.value)


def test_the_description_of_an_unexpected_error_in_a_log_hides_the_password(root, monkeypatch, capsys):
    open_log(root, "pretrain").scalars({"train/loss": 1.0}, 1)
    monkeypatch.setattr(server, "send", lambda *_: (_ for _ in ()).throw(ValueError("http://me:secret@example.org")))
    with pytest.raises(UserError, match=r"ValueError: http://\*\*\*@example.org"):
        sync(root)
    assert "secret" not in capsys.readouterr().err


def test_the_printed_address_of_a_database_is_not_changed():
    assert shown("sqlite+pysqlite:///file:/a%3Fb/mlflow.db?uri=true").endswith("?uri=true")
    assert shown("sqlite:////home/a@b/runs/mlflow.db") == "sqlite:////home/a@b/runs/mlflow.db"
    assert database_path("sqlite://") is None
