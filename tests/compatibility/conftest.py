"""Fixtures with copies of files that an earlier version wrote."""

from __future__ import annotations

import lzma
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from mem.runs.dag import STAGES
from tests.conftest import REPOSITORY

BEFORE = REPOSITORY / "tests" / "fixtures" / "earlier_version"


@dataclass(frozen=True)
class EarlierRun:
    """A finished run of the earlier study. The current code would give the run another key."""

    stage: str
    key: str
    labels: dict
    folder: Path


@pytest.fixture(scope="session")
def runs() -> list[EarlierRun]:
    """The runs of the earlier study, in the order of their stages."""
    configs = [(path, yaml.safe_load(path.read_text())) for path in (BEFORE / "runs").rglob("config.yaml")]
    found = [
        EarlierRun(config["stage"], config["key"], config["labels"], path.parent.relative_to(BEFORE))
        for path, config in configs
    ]
    return sorted(found, key=lambda run: (STAGES.index(run.stage), str(run.folder)))


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
