"""The main table of the report: intervals of a single run, and which values are marked."""

from __future__ import annotations

import json
from dataclasses import replace

from mem.report.collect import StudyResults, collect
from mem.report.main_table import best_cells, main_table
from tests.report.synthetic import rows_of_two_seeds, study_of, write_runs

SHOTS = ("many", "medium", "few", "all")


def test_a_single_run_has_intervals_over_its_images():
    rows = [row for row in rows_of_two_seeds("s", "d", "b", ce=60.0, mem=66.0) if row.seed == 0]
    intervals = {
        "ce": {**dict.fromkeys(SHOTS, (55.0, 65.26)), "few": (float("nan"), float("nan"))},
        "mem": dict.fromkeys(SHOTS, (59.9, 72.0)),
    }
    results = StudyResults(rows, image_intervals={(name, 0, 0): value for name, value in intervals.items()})
    lines = main_table(results)
    assert lines[1] == ["ce", "60.00 [55.0–65.3]", "60.00 [55.0–65.3]", "60.00", "60.00 [55.0–65.3]"]
    assert best_cells(results, lines) == {
        **{(2, column): "best" for column in range(1, 5)},
        **{(1, column): "near" for column in range(1, 5)},
    }


def test_without_recorded_intervals_the_table_has_none():
    rows = [row for row in rows_of_two_seeds("s", "d", "b", ce=60.0) if row.seed == 0]
    assert main_table(StudyResults(rows, image_intervals={("ce", 0, 0): {}}))[1] == ["ce", *["60.00"] * 4]


def test_intervals_of_an_earlier_version_whose_bootstrap_had_no_strata_are_not_shown(tmp_path):
    study = study_of(tmp_path)
    labels_and_folders = [
        (dict(run.labels), tmp_path / run.folder) for run in write_runs(tmp_path, study) if run.stage == "evaluate"
    ]
    assert not any(collect("mini", labels_and_folders).image_intervals.values())
    for _, folder in labels_and_folders:
        metrics = json.loads((folder / "metrics.json").read_text())
        (folder / "metrics.json").write_text(json.dumps({**metrics, "interval_strata": "classes"}))
    assert all(set(found) == set(SHOTS) for found in collect("mini", labels_and_folders).image_intervals.values())


def test_values_within_the_interval_of_the_best_over_runs_are_marked():
    # The best mean over all classes is 66.5 with the interval 66.5 ± 6.35 of Student's t over two seeds.
    rows = rows_of_two_seeds("s", "d", "b", ce=50.0, tau=60.0, mem=66.0, lws=59.0)
    results = StudyResults(rows)
    lines = main_table(results)
    assert lines[3][4] == "66.50 ± 6.35"
    marks = best_cells(results, lines)
    assert {row: mark for (row, column), mark in marks.items() if column == 4} == {3: "best", 2: "near"}
    # The accuracies of the shot groups do not vary over the seeds.
    assert {row: mark for (row, column), mark in marks.items() if column == 1} == {3: "best"}


def test_transductive_heads_and_single_methods_are_not_marked():
    rows = rows_of_two_seeds("s", "d", "b", ce=50.0, tau=40.0, sade=66.0)
    results = StudyResults([replace(row, transductive=row.variant == "sade") for row in rows])
    assert {row for row, _ in best_cells(results, main_table(results))} == {1}
    single = StudyResults(rows_of_two_seeds("s", "d", "b", ce=50.0))
    assert best_cells(single, main_table(single)) == {}
