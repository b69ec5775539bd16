"""Calibration errors with temperature scaling in the report."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mem.report.collect import StudyResults, collect
from mem.report.results import ScoreRow
from mem.report.temperature_scaling import calibration_table, change_text, scaled_scores
from tests.report.class_results import manifest
from tests.report.synthetic import rows_of_two_seeds, study_of, write_runs

TEMPERATURES = [0.5, 1.0, 2.0, 4.0]
VAL = {"nll": [0.9, 0.5, 0.3, 0.4], "ece": [40.0, 30.0, 20.0, 1.0]}
TEST = {"nll": [0.8, 0.6, 0.7, 0.2], "ece": [9.0, 8.0, 7.0, 6.0]}


@pytest.fixture
def results() -> StudyResults:
    """Results of two methods for two seeds, with the same scores at each temperature."""
    rows = [replace(row, ece=8.0) for row in rows_of_two_seeds("s", "d", "b", ce=50.0, mem=60.0)]
    calibration = {(row.variant, *row.repeat): {"val": VAL, "test": TEST} for row in rows}
    return StudyResults(
        rows=[*rows, *(replace(row, split="val") for row in rows)],
        temperatures=TEMPERATURES,
        calibration=calibration,  # type: ignore[arg-type]
    )


def line(results: StudyResults, variant: str, val: tuple[int, ...] = (5, 5)) -> dict[str, str]:
    table = calibration_table(results, manifest(val))
    return dict(zip(table.lines[0], next(each for each in table.lines if each[0] == variant), strict=True))


def without_val(results: StudyResults) -> StudyResults:
    calibration = {run: {"test": splits["test"]} for run, splits in results.calibration.items()}
    return replace(results, rows=[row for row in results.rows if row.split == "test"], calibration=calibration)


def test_the_temperature_has_the_smallest_loss_on_val_and_the_scores_are_those_of_test():
    scores = scaled_scores({"val": VAL, "test": TEST}, TEMPERATURES, 8.0)
    assert (scores.temperature, scores.ece, scores.scaled_ece, scores.nll, scores.scaled_nll) == (
        2.0,
        8.0,
        7.0,
        0.6,
        0.7,
    )
    other_test = {"nll": [0.1, 0.6, 0.9, 0.2], "ece": [0.0, 8.0, 7.5, 6.0]}
    assert scaled_scores({"val": VAL, "test": other_test}, TEMPERATURES, 8.0).temperature == 2.0


def test_an_infinite_loss_gives_no_temperature():
    infinite = {"nll": [None] * 4, "ece": [1.0] * 4}
    scores = scaled_scores({"val": infinite, "test": TEST}, TEMPERATURES, 8.0)
    assert np.isnan([scores.temperature, scores.scaled_ece, scores.scaled_nll]).all()
    assert scaled_scores({"val": {**VAL, "nll": [0.1, None, None, None]}, "test": TEST}, TEMPERATURES, 8.0).at_edge


def test_the_table_has_the_means_over_the_runs_before_and_after_scaling(results):
    results.calibration["mem", 0, 1] = {"val": {**VAL, "nll": [0.9, 0.5, 0.3, 0.2]}, "test": TEST}
    mem = line(results, "mem")
    assert mem["ECE"].startswith("8.00")
    assert mem["ECE, scaled"].startswith("6.50 ±")
    assert mem["temperature"] == "2.00 to 4.00"
    assert mem["NLL, scaled"].startswith("0.450 ±")
    assert line(results, "ce")["temperature"] == "2.00"
    assert change_text(results, "mem") == (
        "The calibration error of mem on test is 8.00 %, and 6.50 % with a temperature that is fitted on val."
    )
    caption = calibration_table(results, manifest((5, 5))).caption
    assert "the one of 4 temperatures from 0.5 to 4 with the smallest NLL on val" in caption
    assert "Val has 10 images." in caption
    assert "long tail" not in caption
    assert "The smallest or largest of all temperatures was chosen for mem." in caption


def test_the_caption_says_that_val_has_a_long_tail_or_is_held_out(results):
    assert "the largest class has 20 times as many" in calibration_table(results, manifest((100, 5, 0))).caption
    rows = [replace(row, key="other") if row.split == "val" else row for row in results.rows]
    caption = calibration_table(replace(results, rows=rows), manifest((0, 0))).caption
    assert "Val are held-out training images with the long tail of train" in caption


def test_without_val_there_are_no_temperatures_and_the_caption_says_so(results):
    results = without_val(results)
    assert line(results, "mem") == {
        "method": "mem", "ECE": "8.00 ± 0.00", "ECE, scaled": "-", "temperature": "-", "NLL": "0.600 ± 0.000",
        "NLL, scaled": "-",
    }  # fmt: skip
    assert "The study has no val split, so there are no temperatures." in calibration_table(results, manifest()).caption
    assert change_text(results, "mem") == ""


def test_evaluations_of_an_earlier_version_keep_their_calibration_error(results):
    del results.calibration["ce", 0, 0], results.calibration["ce", 0, 1]
    assert line(results, "ce")["ECE"].startswith("8.00")
    assert line(results, "ce")["ECE, scaled"] == "-"
    caption = calibration_table(results, manifest()).caption
    assert "The evaluations of ce are of an earlier version" in caption
    assert "--forcerun evaluate" in caption
    earlier = calibration_table(replace(results, calibration={}, temperatures=()), manifest())
    assert "The evaluations of ce, mem are of an earlier version" in earlier.caption


def test_scores_of_val_and_test_of_both_branches_of_a_selection_belong_together(tmp_path, monkeypatch):
    from mem.report import collect as module
    from tests.runs.test_selection_branches import SELECTION, without_val

    folder = tmp_path
    values = without_val(study="selecting", selection=SELECTION)
    study = study_of(folder, **{name: values.get(name) for name in ("study", "dataset", "selection")})
    *runs, report = write_runs(folder, study)
    read = module.read_evaluation

    def with_calibration(path: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        record, metrics = read(folder / path)
        branch = next(run.labels["branch"] for run in runs if run.folder == path)
        splits = {"val": VAL} if branch == "select" else {"test": TEST}
        return record, {**metrics, "calibration": {"temperatures": TEMPERATURES, "splits": splits}}

    monkeypatch.setattr(module, "read_evaluation", with_calibration)
    found = collect(study.study, [(run.labels, run.folder) for run in report.inputs.values()])
    assert {frozenset(splits) for splits in found.calibration.values()} == {frozenset(("val", "test"))}
    assert line(found, "mem")["temperature"] == "2.00"
    assert isinstance(found.rows[0], ScoreRow)
