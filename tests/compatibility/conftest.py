"""Fixtures with copies of files that an earlier version wrote."""

from __future__ import annotations

import lzma
import shutil
from pathlib import Path

import pytest

from mem.config.load import load_study
from mem.runs.dag import Run, study_runs
from tests.conftest import REPOSITORY

BEFORE = REPOSITORY / "tests" / "fixtures" / "earlier_version"


@pytest.fixture(scope="session")
def runs() -> list[Run]:
    """The runs of the earlier study, with keys computed by the current code."""
    return study_runs(load_study([BEFORE / "study.yaml"]))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, which contains a copy of the earlier study and its finished runs."""
    shutil.copyfile(BEFORE / "study.yaml", tmp_path / "study.yaml")
    shutil.copytree(BEFORE / "runs", tmp_path / "runs")
    for path in tmp_path.rglob("*.beton.xz"):
        path.with_suffix("").write_bytes(lzma.decompress(path.read_bytes()))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path
