"""A folder with an embedded MLflow database."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from mem.tracking import server
from tests.tracking.logs import OPEN_LOGS


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables. Creating the tables takes seconds, so tests copy the database."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    list(server.all_runs(server.client(f"sqlite:///{path}")))
    return path


@pytest.fixture
def root(tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose MLflow database contains no runs."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "runs").mkdir()
    shutil.copy(empty_database, tmp_path / "runs" / "mlflow.db")
    return tmp_path


@pytest.fixture(autouse=True)
def close_logs() -> Iterator[None]:
    yield
    while OPEN_LOGS:
        OPEN_LOGS.pop().close()
