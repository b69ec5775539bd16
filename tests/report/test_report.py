"""The report of made-up runs: what it writes, in which order, and what it says when it cannot."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mem.cli.main import main
from mem.metrics.predictions import FILE, Predictions, read_predictions, write_predictions
from mem.report import collect
from mem.report.page import unbroken
from mem.report.results import from_csv
from mem.report.terminal import summary
from mem.runs.dag import Run, study_runs
from tests.report.synthetic import grid, made_up, study_of


def reported(folder: Path, study, **options) -> Path:
    """Make up the runs, make the report, and say where it is."""
    runs = made_up(folder, study, **options)
    before = Path.cwd()
    os.chdir(folder)
    try:
        assert main(["report", "--config", str(runs[-1].folder)]) == 0
    finally:
        os.chdir(before)
    return folder / "results" / study.study


@pytest.fixture(scope="module")
def several(tmp_path_factory) -> Path:
    """Two seeds and two class orders of the mini study; MEM is 20 points ahead of all."""
    folder = tmp_path_factory.mktemp("several")
    return reported(folder, study_of(folder, seeds=[0, 1], orders=[0, 3]), gain={"mem": 0.2})


def test_every_table_and_figure_of_the_paper_is_written_in_every_form(several):
    for number in range(1, 6):
        for kind in ("md", "csv", "html"):
            assert (several / "tables" / f"table{number}.{kind}").stat().st_size > 100
    for number in (1, 3, 4):
        assert (several / "figures" / f"figure{number}.svg").read_text().startswith("<svg")
        assert (several / "figures" / f"figure{number}.png").read_bytes().startswith(b"\x89PNG")


def test_the_page_holds_everything_and_asks_nothing_of_the_network(several):
    page = (several / "report" / "index.html").read_text()
    for title in (
        "Accuracy on test",
        "Differences between methods",
        "Top-5, balanced accuracy, calibration",
        "Accuracy with the shot given",
        "What the sub-networks tell apart",
        "Table 5",
        "Deviations from the paper",
        "Cost",
        "Provenance",
    ):
        assert title in page, title
    without_names = re.sub(r'xmlns(:\w+)?="[^"]*"|xlink:href="#[^"]*"', "", page)
    assert not re.search(r'(src|href)="(?!#|data:)', without_names)
    assert "many&gt;100 few&lt;20" in page
    assert "Mean and 95 % interval (Student&#39;s t) over 4 runs." in page


def test_differences_are_paired_with_crt_over_seeds_and_orders(several):
    text = summary("mini", several.parent.parent)
    assert "Minus crt on the same backbone" in text
    line = next(line for line in text.splitlines() if line.startswith("mem ") and line.rstrip().endswith(" 4"))
    rows = from_csv(several / "report" / "results.csv")
    score = {(row.variant, *row.repeat): row.all for row in rows if row.split == "test"}
    pairs = [score["mem", *r] - score["crt", *r] for r in ((0, 0), (0, 1), (3, 0), (3, 1))]
    assert f"{sum(pairs) / 4:+.2f} ±" in line
    assert "Highest on val: mem" in text


def test_a_grid_of_heads_is_sorted_by_val_and_each_evaluation_is_read_once(tmp_path, monkeypatch):
    study = study_of(tmp_path, seeds=[0, 1], **grid(20))
    read: list[Path] = []
    original = collect.read_evaluation
    monkeypatch.setattr(collect, "read_evaluation", lambda folder: read.append(folder) or original(folder))
    results = reported(tmp_path, study, gain={"mem.additive.xi35": 0.3, "mem.free.xi40": 0.15})
    assert len(read) == len(set(read)) == 2 * len(study.heads)
    lines = (results / "report" / "table.md").read_text().splitlines()
    assert lines[0] == "| method | val, all | many | medium | few | all |"
    assert [line.split(" | ")[0] for line in lines[2:4]] == ["| mem.additive.xi35", "| mem.free.xi40"]
    means = [float(line.split(" | ")[1]) for line in lines[2:]]
    assert means == sorted(means, reverse=True)
    page = (results / "report" / "index.html").read_text()
    assert "methods, the best on val first" in page
    assert "One setting at a time" in page
    assert "best on val</dt><dd>mem.additive.xi35" in page


def test_a_single_run_is_compared_over_its_images(tmp_path):
    results = reported(tmp_path, study_of(tmp_path), gain={"mem": 0.3})
    page = (results / "report" / "index.html").read_text()
    assert "95 % interval by paired bootstrap over images" in page
    assert "Minus" not in summary("mini", tmp_path)


def test_a_shot_without_test_images_is_a_dash_and_nothing_breaks(tmp_path):
    results = reported(tmp_path, study_of(tmp_path, seeds=[0, 1]), without_few=True)
    lines = (results / "report" / "table.md").read_text().splitlines()
    assert all(line.split(" | ")[3] == "-" for line in lines[2:])
    assert "nan" not in summary("mini", tmp_path)


def test_a_report_asked_for_before_anything_ran_names_what_to_run(tmp_path, capfd):
    from mem.runs.dag import study_runs
    from mem.runs.folder import write_configs

    study = study_of(tmp_path)
    runs = study_runs(study)
    write_configs(runs, study, tmp_path)
    before = Path.cwd()
    os.chdir(tmp_path)
    try:
        assert main(["report", "--config", str(runs[-1].folder)]) == 2
    finally:
        os.chdir(before)
    said = capfd.readouterr().err
    assert "is not finished. Make it first: mem evaluate" in said
    assert "Traceback" not in said


def test_the_tables_of_a_small_study_are_drawn_from_what_it_has(several):
    with open(several / "tables" / "table2.csv", newline="") as file:
        lines = list(csv.reader(file))
    assert lines[0] == ["backbone", "method", "ours", "runs", "paper", "difference"]
    assert [line[1] for line in lines[1:]] == ["ce", "tau", "crt", "lws", "mem"]
    assert {(line[3], line[4], line[5]) for line in lines[1:]} == {("4", "-", "-")}
    caption = (several / "tables" / "table2.md").read_text()
    assert "many>100 few<20" in caption
    assert "Seeds 0, 1, class orders 0, 3: mean ± 95 % interval" in caption


@pytest.fixture(scope="module")
def single(tmp_path_factory) -> tuple[Path, list[Run]]:
    """A folder with the report of a study of one run, and its runs."""
    folder = tmp_path_factory.mktemp("single")
    study = study_of(folder)
    reported(folder, study)
    return folder, study_runs(study)


def of_another_data_set(folder: Path) -> None:
    content = json.loads((folder / "metrics.json").read_text())
    content["class_counts"] = content["class_counts"][:-1]
    (folder / "metrics.json").write_text(json.dumps(content))


def of_fewer_images(folder: Path) -> None:
    content = json.loads((folder / "metrics.json").read_text())
    content["splits"]["test"]["images"] -= 1
    (folder / "metrics.json").write_text(json.dumps(content))


def predictions_of_fewer_images(folder: Path) -> None:
    about, splits = read_predictions(folder / FILE)
    write_predictions(folder / FILE, about, {name: first_fifty(split) for name, split in splits.items()})


def first_fifty(split: Predictions) -> Predictions:
    fewer: dict[str, Any] = {name: value[:50] for name, value in vars(split).items() if value is not None}
    return replace(split, **fewer)


def torn(folder: Path) -> None:
    path = folder / "metrics.json"
    path.write_text(path.read_text()[:100])


def holding(content: str) -> Callable[[Path], int]:
    """Metrics that are JSON, but not an evaluation's."""
    return lambda folder: (folder / "metrics.json").write_text(content)


def without(*names: str) -> Callable[[Path], None]:
    """Metrics that lack one key."""

    def change(folder: Path) -> None:
        content = inner = json.loads((folder / "metrics.json").read_text())
        for name in names[:-1]:
            inner = inner[name]
        del inner[names[-1]]
        (folder / "metrics.json").write_text(json.dumps(content))

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (of_another_data_set, r"of 10 classes .* of 9 classes .*cannot stand in one report"),
        (of_fewer_images, r"200 images of val and 200 images of test, .*200 images of val and 199 images of test"),
        (predictions_of_fewer_images, r"has predictions of 200 images and .* of 50: .*cannot be paired"),
        (torn, r"metrics.json: damaged: .* Evaluate again: delete .*run.json"),
        (holding("{}"), r"metrics.json: damaged: thresholds: Field required. Evaluate again: delete .*run.json"),
        (holding("null"), r"metrics.json: damaged: Input should be an object. Evaluate again: delete"),
        (without("class_counts"), r"metrics.json: damaged: class_counts: Field required"),
        (without("splits", "test"), r"metrics.json: damaged: splits.test: Field required"),
        (without("splits", "test", "wrong_by_group"), r"damaged: splits.test.wrong_by_group: Field required"),
        (without("splits", "val", "accuracy", "all"), r"damaged: splits.val.accuracy.all: Field required"),
        (lambda folder: (folder / "metrics.json").unlink(), r"no such file: this evaluation was not run yet"),
        (lambda folder: (folder / FILE).unlink(), r"predictions.parquet: no such file"),
    ],
    ids=[
        "other classes",
        "other images",
        "other predictions",
        "torn",
        "empty",
        "null",
        "no counts",
        "no test",
        "no errors by shot",
        "no accuracy",
        "no metrics",
        "no predictions",
    ],
)
def test_evaluations_of_another_data_set_and_damaged_ones_are_named_and_the_last_report_stays(
    single, tmp_path, monkeypatch, capfd, change, said
):
    folder, runs = single
    page = folder / "results" / "mini" / "report" / "index.html"
    before = page.read_bytes()
    second = [run for run in runs if run.stage == "evaluate"][1].folder
    shutil.copytree(folder / second, tmp_path / "kept")
    monkeypatch.chdir(folder)
    try:
        change(folder / second)
        assert main(["report", "--config", str(runs[-1].folder)]) == 2
    finally:
        shutil.copytree(tmp_path / "kept", folder / second, dirs_exist_ok=True)
    err = capfd.readouterr().err
    assert re.search(said, err), err
    assert str(second) in err
    assert "Traceback" not in err
    assert page.read_bytes() == before


def test_cells_are_broken_before_an_interval_and_not_before_a_unit():
    space = "\N{NO-BREAK SPACE}"
    cells = ["90.94 ± 1.30", "−2.67 (−5.64 to −0.57)", "1.2 %", "0.93 GB", "ours, 3 runs"]
    assert [unbroken(cell) for cell in cells] == [
        f"90.94 ±{space}1.30",
        f"−2.67 (−5.64{space}to{space}−0.57)",
        f"1.2{space}%",
        f"0.93{space}GB",
        "ours, 3 runs",
    ]
