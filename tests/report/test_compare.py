"""What differs between two runs is said, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mem.cli.main import main
from mem.config.load import load_study
from mem.errors import UserError
from mem.runs.dag import Run, study_runs
from mem.runs.diff import compare, find_run
from mem.runs.folder import RunFolder, read_config, write_configs
from tests.conftest import REPOSITORY

MINI = REPOSITORY / "tests" / "mini.yaml"
CHANGED = {"heads": {"mem": {"xi": 35.0}}, "features": {"views": 3}, "finetune": {"epochs": 9}}


@pytest.fixture
def root(tmp_path) -> Path:
    """Two studies' runs, all finished as far as a record tells."""
    for changes in ({}, CHANGED):
        study = load_study([MINI], changes)
        runs = study_runs(study)
        write_configs(runs, study, tmp_path)
        for run in runs:
            finish(tmp_path, run)
    return tmp_path


def finish(root: Path, run: Run) -> None:
    document = run.document()
    record = {
        **{name: document[name] for name in ("stage", "key", "labels", "seed", "inputs")},
        "settings": dict(read_config(root / run.folder, run.stage).settings),
        "results": {"test": {"all": 61.5, "few": None}} if run.stage == "evaluate" else {"steps": 12},
        "git": {"commit": "abc", "dirty": False},
        "versions": {"torch": "2.0"},
        "seconds": 3.5,
    }
    RunFolder(root / run.folder).record.write_text(json.dumps(record))


def head(changes: dict | None = None, variant: str = "mem") -> Run:
    runs = study_runs(load_study([MINI], changes or {}))
    return next(run for run in runs if run.stage == "train_head" and run.labels["variant"] == variant)


def section(text: str, title: str) -> dict[str, list[str]]:
    """The lines of a section, by their first word."""
    lines = iter(text.splitlines())
    assert any(line.split()[:1] == [title] for line in lines), text
    next(lines)
    rows: dict[str, list[str]] = {}
    for line in lines:
        if not line:
            break
        cells = [cell for cell in line.split("  ") if cell]
        rows[cells[0].strip()] = [cell.strip() for cell in cells[1:]]
    return rows


def test_settings_are_told_flat_with_the_inputs_up_the_lineage(root):
    a, b = head(), head(CHANGED)
    text = compare(str(a.folder), str(b.folder), root)
    assert section(text, "settings") == {"head.xi": ["20", "35"]}
    inputs = section(text, "inputs")
    assert inputs["features"] == [run.inputs["features"].folder.name for run in (a, b)]
    assert inputs["features: features.views"] == ["1", "3"]
    assert inputs["features < classifier: finetune.epochs"] == ["6", "9"]
    assert not any("encoder" in name or "images" in name for name in inputs)
    assert text.splitlines()[:2] == [f"A  {a.folder}", f"B  {b.folder}"]


def test_scores_of_heads_stand_beside_one_another(root):
    a, b = head(), head(variant="crt")
    for run, score in ((a, 40.0), (b, 42.5)):
        evaluation = next(
            r for r in study_runs(load_study([MINI])) if r.stage == "evaluate" and r.inputs["head"].key == run.key
        )
        path = RunFolder(root / evaluation.folder).record
        path.write_text(json.dumps(json.loads(path.read_text()) | {"results": {"test": {"all": score, "few": None}}}))
    text = compare(a.key, b.key[:8], root)
    assert section(text, "results") == {"test.all": ["40", "42.5", "+2.5"]}
    assert section(text, "settings")["head.classifier_from"] == ["ce", "-"]
    assert text.endswith("Alike: inputs.")


def test_a_run_that_is_not_finished_is_compared_by_its_settings(root):
    RunFolder(root / head(CHANGED).folder).record.unlink()
    text = compare(head().key, head(CHANGED).key, root)
    assert "(not finished)" in text
    assert section(text, "settings") == {"head.xi": ["20", "35"]}


def test_a_run_is_equal_to_itself(root):
    assert compare(head().key, str(head().folder), root).endswith("This is one run.")


def test_what_cannot_be_compared_is_said(root):
    with pytest.raises(UserError, match=r"no run folder, and no key under .* begins so"):
        find_run("nothing", root)
    twin = head().folder.with_name(f"train_head-{head().key[:6]}000000")
    (root / twin).mkdir()
    (root / twin / "config.yaml").write_text("")
    with pytest.raises(UserError, match=rf"(?s)2 runs have keys that begin so; give more of it:\n  .*{head().key}"):
        find_run(head().key[:6], root)
    with pytest.raises(UserError, match=r"is a train_head run and .* a features run"):
        compare(head().key, head().inputs["features"].key, root)


def test_the_command_is_told_from_a_list_of_runs(root, monkeypatch, capsys):
    monkeypatch.chdir(root)
    assert main(["runs", "compare", head().key, head(CHANGED).key]) == 0
    assert "head.xi" in capsys.readouterr().out
    assert main(["runs", str(MINI)]) == 0
    assert head().key in capsys.readouterr().out
