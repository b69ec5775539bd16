"""Missing, damaged or mismatched evaluations are reported in one message, and the previous report is kept."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mem.cli.main import main
from mem.metrics.predictions import PREDICTIONS_FILE, Predictions, read_predictions, write_predictions
from mem.runs.dag import Run, study_runs
from mem.runs.run_config import write_configs
from tests.report.synthetic import study_of, write_report

pytestmark = pytest.mark.stage


def test_a_report_before_its_evaluations_names_the_command_to_run_first(tmp_path, capfd, monkeypatch):
    study = study_of(tmp_path)
    runs = study_runs(study)
    write_configs(runs, study, tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main(["report", "--config", str(runs[-1].folder)]) == 2
    message = capfd.readouterr().err
    assert "is not finished" in message
    assert "mem evaluate" in message
    assert "Traceback" not in message


@pytest.fixture(scope="module")
def single_run(tmp_path_factory) -> tuple[Path, list[Run]]:
    """The folder with the report of a study with one seed, and the study's runs."""
    folder = tmp_path_factory.mktemp("single")
    study = study_of(folder)
    write_report(folder, study)
    return folder, study_runs(study)


def fewer_classes(folder: Path) -> None:
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["class_counts"] = metrics["class_counts"][:-1]
    (folder / "metrics.json").write_text(json.dumps(metrics))


def fewer_images(folder: Path) -> None:
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["splits"]["test"]["images"] -= 1
    (folder / "metrics.json").write_text(json.dumps(metrics))


def fewer_predictions(folder: Path) -> None:
    metadata, splits = read_predictions(folder / PREDICTIONS_FILE)
    first_fifty_of = {name: first_fifty(split) for name, split in splits.items()}
    write_predictions(folder / PREDICTIONS_FILE, metadata, first_fifty_of)


def first_fifty(split: Predictions) -> Predictions:
    fewer: dict[str, Any] = {name: value[:50] for name, value in vars(split).items() if value is not None}
    return replace(split, **fewer)


def truncated(folder: Path) -> None:
    path = folder / "metrics.json"
    path.write_text(path.read_text()[:100])


def with_content(content: str) -> Callable[[Path], int]:
    """Return a change that replaces the metrics with the given JSON text."""
    return lambda folder: (folder / "metrics.json").write_text(content)


def without_key(*names: str) -> Callable[[Path], None]:
    """Return a change that removes a key, given as a path of names, from the metrics."""

    def change(folder: Path) -> None:
        metrics = inner = json.loads((folder / "metrics.json").read_text())
        for name in names[:-1]:
            inner = inner[name]
        del inner[names[-1]]
        (folder / "metrics.json").write_text(json.dumps(metrics))

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (fewer_classes, r"has 10 classes, .* has 9 classes, .*use different datasets or class orders"),
        (fewer_images, r"200 images of val and 200 images of test, .*200 images of val and 199 images of test"),
        (fewer_predictions, r"200 images.*50"),
        (truncated, r"metrics.json is damaged: .* To evaluate again, delete .*run.json"),
        (with_content("{}"), r"metrics.json is damaged: thresholds: Field required. To evaluate again, delete .*run"),
        (with_content("null"), r"metrics.json is damaged: Input should be an object. To evaluate again, delete"),
        (without_key("class_counts"), r"metrics.json is damaged: class_counts: Field required"),
        (without_key("splits", "test"), r"metrics.json is damaged: splits.test: Field required"),
        (without_key("splits", "test", "wrong_by_group"), r"damaged: splits.test.wrong_by_group: Field required"),
        (without_key("splits", "val", "accuracy", "all"), r"damaged: splits.val.accuracy.all: Field required"),
        (lambda folder: (folder / "metrics.json").unlink(), r"does not exist: this evaluation is not finished"),
        (lambda folder: (folder / PREDICTIONS_FILE).unlink(), r"predictions.parquet"),
    ],
    ids=[
        "fewer classes",
        "fewer images",
        "fewer predictions",
        "truncated",
        "empty",
        "null",
        "no class counts",
        "no test",
        "no errors by shot group",
        "no accuracy",
        "no metrics",
        "no predictions",
    ],
)
def test_an_invalid_evaluation_is_named_and_the_previous_report_stays(
    single_run, tmp_path, monkeypatch, capfd, change, message
):
    folder, runs = single_run
    page = folder / "results" / "mini" / "report" / "index.html"
    before = page.read_bytes()
    evaluation = [run for run in runs if run.stage == "evaluate"][1].folder
    shutil.copytree(folder / evaluation, tmp_path / "backup")
    monkeypatch.chdir(folder)
    try:
        change(folder / evaluation)
        assert main(["report", "--config", str(runs[-1].folder)]) == 2
    finally:
        shutil.copytree(tmp_path / "backup", folder / evaluation, dirs_exist_ok=True)
    error = capfd.readouterr().err
    assert re.search(message, error), error
    assert str(evaluation) in error
    assert "Traceback" not in error
    assert page.read_bytes() == before
