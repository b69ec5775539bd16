"""The keys of all runs in the shipped studies equal those recorded before names in the code were changed."""

from __future__ import annotations

import json
from functools import cache

import pytest

from mem.config.load import load_study
from mem.runs import font_files
from mem.runs.dag import study_runs
from tests.conftest import REPOSITORY

RECORDED_FILE = REPOSITORY / "tests" / "runs" / "recorded_keys.json"
"""Stage, labels, key and folder of each run, by study. A name with ` + ` denotes a study with a file merged over it."""

HUB_COMMIT = "tests/runs/hub_commit.yaml"
"""A commit for recipes whose weights are on the Hugging Face hub. Without a commit, a study has no run keys."""


@cache
def recorded() -> dict[str, list[list]]:
    return json.loads(RECORDED_FILE.read_text())


@pytest.mark.parametrize("study", list(recorded()))
def test_every_shipped_study_keeps_its_recorded_run_keys(study, tmp_path, monkeypatch):
    # The digests of lists, weights and fonts are part of the keys if the files exist. An empty working folder has none.
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(font_files, "FONT_FOLDERS", ("data/fonts",))
    runs = study_runs(load_study([REPOSITORY / file for file in study.split(" + ")]))
    planned = [[run.stage, dict(run.labels), run.key, str(run.folder)] for run in runs]
    assert planned == recorded()[study]


def test_all_shipped_studies_are_recorded():
    shipped = {path.relative_to(REPOSITORY).as_posix() for path in (REPOSITORY / "config").rglob("*.yaml")}
    assert shipped == {file for study in recorded() for file in study.split(" + ")} - {HUB_COMMIT}
