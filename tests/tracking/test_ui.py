"""`mem track ui` prints the addresses of views, and reports why it cannot open the UI."""

from __future__ import annotations

import socket
from email.message import Message
from pathlib import Path
from urllib.error import HTTPError

import pytest

from mem.errors import UserError
from mem.tracking import open_browser, ui
from mem.tracking.published_studies import PublishedView, publish_addresses
from mem.tracking.ui import UiOptions, open_ui
from tests.tracking.logs import client


@pytest.fixture
def started(root: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A database with two studies, and a list to which the start of MLflow's server is added instead of a process."""
    calls: list[str] = []
    monkeypatch.setattr(ui, "_run_ui", lambda uri, options: calls.append(uri))
    monkeypatch.setattr(ui, "_open_when_ready", calls.append)
    for study in ("one", "two"):
        experiment = client(root).create_experiment(study)
        views = [PublishedView("heads", f"#/{study}/heads"), PublishedView("curves", f"#/{study}/curves")]
        publish_addresses(client(root), experiment, study, views)
    return calls


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_the_addresses_of_a_study_are_printed_before_the_server_starts(root, started, port, capsys):
    assert open_ui(root, UiOptions(port=port, study="two")) == 0
    assert capsys.readouterr().out == (
        f"MLflow UI at http://127.0.0.1:{port}/#/?workflowType=machine_learning (press Ctrl-C to stop it)\n\n"
        "Study two\n"
        f"  heads   http://127.0.0.1:{port}/#/two/heads\n"
        f"  curves  http://127.0.0.1:{port}/#/two/curves\n"
    )
    assert [call.rpartition("/")[2] for call in started] == ["mlflow.db"]


def test_without_a_study_the_first_view_of_every_study_is_printed_and_opened_on_request(root, started, port, capsys):
    open_ui(root, UiOptions(port=port, open_browser=True))
    out = capsys.readouterr().out
    assert f"Study one\n  heads  http://127.0.0.1:{port}/#/one/heads\n\nStudy two\n" in out
    assert "/curves" not in out
    assert "`mem track ui STUDY` lists all views of a study." in out
    assert started[0] == f"http://127.0.0.1:{port}/#/one/heads"


def test_a_study_without_views_is_reported_with_those_that_have_some(root, started, port):
    with pytest.raises(UserError, match=r"three: MLflow has no views of this study.*mem track sync.*views: one, two\."):
        open_ui(root, UiOptions(port=port, study="three"))
    assert started == []


@pytest.mark.parametrize("value", ["{", "[]", "{}", '{"heads": 1}'])
def test_damaged_views_are_reported(value, root, started, port):
    experiment = client(root).create_experiment("three")
    client(root).set_experiment_tag(experiment, "mem.views.three", value)
    with pytest.raises(UserError, match=r"The tag mem\.views\.three of the MLflow experiment three is damaged"):
        open_ui(root, UiOptions(port=port))
    assert started == []


def test_the_browser_is_opened_where_the_server_asks_for_a_password(monkeypatch):
    opened: list[str] = []

    def unauthorized(address: str, timeout: float) -> None:
        raise HTTPError(address, 401, "Unauthorized", Message(), None)

    monkeypatch.setattr(open_browser, "urlopen", unauthorized)
    monkeypatch.setattr(open_browser, "_SECONDS", 1.0)
    monkeypatch.setattr(open_browser.webbrowser, "open", lambda address: opened.append(address) or True)
    assert open_browser.open_when_ready("https://tracking.example.org/#/experiments/1")
    assert opened == ["https://tracking.example.org/#/experiments/1"]


def test_a_port_in_use_is_reported(root):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"Port {port} on 127.0.0.1 cannot be used"):
            open_ui(root, UiOptions(port=port))


def test_without_a_database_there_is_no_ui(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(UserError, match="there is no database yet"):
        open_ui(tmp_path, UiOptions())


def test_the_views_on_a_tracking_server_are_printed_and_no_server_is_started(root, started, monkeypatch, capsys):
    database = client(root)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://user:secret@tracking.example.org/")
    monkeypatch.setattr(ui.server, "client", lambda uri: database)
    open_ui(root, UiOptions(study="one"))
    out = capsys.readouterr().out
    assert "MLflow UI: https://tracking.example.org/#/?workflowType=machine_learning\n" in out
    assert "  heads   https://tracking.example.org/#/one/heads\n" in out
    assert started == []
