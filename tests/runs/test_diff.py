"""The differences between two runs, as reported by `mem runs compare`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mem.cli.main import main
from mem.config.load import load_study
from mem.errors import UserError
from mem.runs.dag import Run, study_runs
from mem.runs.diff import compare
from mem.runs.find import find_run
from mem.runs.folder import RunFolder
from mem.runs.run_config import read_config, write_configs
from tests.conftest import REPOSITORY
from tests.runs.test_attempts import LINES, write_log

MINI = REPOSITORY / "tests" / "mini.yaml"
CHANGED = {"heads": {"mem": {"xi": 35.0}}, "features": {"views": 3}, "finetune": {"epochs": 9}}


@pytest.fixture
def root(tmp_path) -> Path:
    """A folder with the runs of two studies. Every run has the record of a finished run."""
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


def head_run(changes: dict | None = None, variant: str = "mem") -> Run:
    runs = study_runs(load_study([MINI], changes or {}))
    return next(run for run in runs if run.stage == "train_head" and run.labels["variant"] == variant)


def section(text: str, title: str) -> dict[str, list[str]]:
    """Return the cells of a section by the name in the first column."""
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


def test_settings_are_compared_by_dotted_name_including_those_of_inputs(root):
    a, b = head_run(), head_run(CHANGED)
    text = compare(str(a.folder), str(b.folder), root)
    assert section(text, "settings") == {"head.xi": ["20", "35"]}
    inputs = section(text, "inputs")
    assert inputs["features"] == [run.inputs["features"].folder.name for run in (a, b)]
    assert inputs["features: features.views"] == ["1", "3"]
    assert inputs["features < classifier: finetune.epochs"] == ["6", "9"]
    assert not any("encoder" in name or "images" in name for name in inputs)
    assert text.splitlines()[:2] == [f"A  {a.folder}", f"B  {b.folder}"]


def test_scores_of_two_heads_are_compared(root):
    a, b = head_run(), head_run(variant="crt")
    for run, score in ((a, 40.0), (b, 42.5)):
        evaluation = next(
            r for r in study_runs(load_study([MINI])) if r.stage == "evaluate" and r.inputs["head"].key == run.key
        )
        path = RunFolder(root / evaluation.folder).record
        path.write_text(json.dumps(json.loads(path.read_text()) | {"results": {"test": {"all": score, "few": None}}}))
    text = compare(a.key, b.key[:8], root)
    assert section(text, "results") == {"test.all": ["40", "42.5", "+2.5"]}
    assert section(text, "settings")["head.classifier_from"] == ["ce", "-"]
    assert text.endswith("No difference in: inputs.")


def evaluation_of(head: Run, changes: dict | None = None) -> Run:
    runs = study_runs(load_study([MINI], changes or {}))
    return next(run for run in runs if run.stage == "evaluate" and run.inputs["head"].key == head.key)


def write_metrics(root: Path, evaluation: Run, **scores) -> None:
    """Write the `metrics.json` of an evaluation, in which the given scores of test replace the usual ones."""
    test = {"accuracy": {"all": 61.5, "few": None}, "ece": 4.25, "per_class": [50.0] * 30, "norms": [[1.5, 2.5]] * 9}
    content = {"thresholds": "many>100 few<20", "class_counts": [9, 5], "splits": {"test": test | scores}}
    (root / evaluation.folder / "metrics.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ({"ece": 6.5}, {"test.ece": ["4.25", "6.5", "+2.25"]}),
        # Numbers that agree in six digits, and lists that agree in their first values.
        ({"ece": 4.25000001}, {"test.ece": ["4.25", "4.25000001", "+1e-08"]}),
        ({"per_class": [50.0] * 28 + [51.0, 47.5]}, {"test.per_class": ["30 values", "2 differ, by up to 2.5"]}),
        ({"norms": [[1.5, 2.5]] * 8 + [[1.5, None]]}, {"test.norms": ["18 values", "1 differ"]}),
        ({"group_by_norm": {"all": 70.0}}, {"test.group_by_norm.all": ["-", "70"]}),
        ({"accuracy": {"all": 62.0, "few": None}}, {"test.all": ["61.5", "62", "+0.5"]}),
    ],
)
@pytest.mark.parametrize("stage", ["evaluate", "train_head"])
def test_all_scores_of_an_evaluation_are_compared(root, stage, scores, expected):
    heads = head_run(), head_run(CHANGED)
    evaluations = evaluation_of(heads[0]), evaluation_of(heads[1], CHANGED)
    a, b = evaluations if stage == "evaluate" else heads
    for evaluation in evaluations:
        write_metrics(root, evaluation)
    assert "results" in compare(a.key, b.key, root).splitlines()[-1].removeprefix("No difference in: ")
    write_metrics(root, evaluations[1], **scores)
    assert section(compare(a.key, b.key, root), "results") == expected


def test_the_seconds_of_all_attempts_are_compared(root):
    folders = [RunFolder(root / run.folder) for run in (head_run(), head_run(CHANGED))]
    folders[0].record.write_text(json.dumps(json.loads(folders[0].record.read_text()) | {"attempts": 3}))
    write_log(folders[0].log, LINES)
    assert section(compare(head_run().key, head_run(CHANGED).key, root), "cost")["seconds"] == ["52.4", "3.5", "-48.9"]


def test_an_unfinished_run_is_compared_by_its_settings(root):
    RunFolder(root / head_run(CHANGED).folder).record.unlink()
    text = compare(head_run().key, head_run(CHANGED).key, root)
    assert "(not finished)" in text
    assert section(text, "settings") == {"head.xi": ["20", "35"]}


def test_a_run_is_the_same_as_itself(root):
    assert compare(head_run().key, str(head_run().folder), root).endswith("A and B are the same run.")


def test_runs_that_cannot_be_compared_are_reported(root):
    with pytest.raises(UserError, match=r"not a run folder, not the beginning of a key in"):
        find_run("nothing", root)
    twin = head_run().folder.with_name(f"train_head-{head_run().key[:6]}000000")
    (root / twin).mkdir()
    (root / twin / "config.yaml").write_text("")
    with pytest.raises(
        UserError, match=rf"(?s)2 runs match. Specify one by .* more digits of it:\n  .*{head_run().key}"
    ):
        find_run(head_run().key[:6], root)
    with pytest.raises(UserError, match=r"is a train_head run and .* a features run"):
        compare(head_run().key, head_run().inputs["features"].key, root)


def test_the_command_line_distinguishes_comparing_from_listing_runs(root, monkeypatch, capsys):
    monkeypatch.chdir(root)
    assert main(["runs", "compare", head_run().key, head_run(CHANGED).key]) == 0
    assert "head.xi" in capsys.readouterr().out
    assert main(["runs", str(MINI)]) == 0
    assert head_run().key in capsys.readouterr().out
