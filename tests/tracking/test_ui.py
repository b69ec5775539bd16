"""`mem track ui` reports why it cannot open the UI."""

from __future__ import annotations

import socket

import pytest

from mem.errors import UserError
from mem.tracking.ui import open_ui


def test_a_port_in_use_is_reported(root):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"Port {port} on 127.0.0.1 cannot be used"):
            open_ui(root, "127.0.0.1", port)


def test_without_a_database_there_is_no_ui(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(UserError, match="there is no database yet"):
        open_ui(tmp_path, "127.0.0.1", 5000)


def test_a_tracking_server_has_its_own_ui(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://tracking.example.org")
    with pytest.raises(UserError, match=r"Open this address in a browser"):
        open_ui(tmp_path, "127.0.0.1", 5000)
