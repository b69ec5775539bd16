"""Results with several crops are marked in `results.csv`, in every table and in the terminal."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mem.report.crop_marks import crops_mark, crops_note, named_with_crops
from mem.report.paper_tables import build_paper_tables
from mem.report.results import ScoreRow, from_csv, score_rows, to_csv
from mem.report.results_store import ResultsStore
from mem.report.terminal import study_summary
from tests.report.synthetic import rows_of_two_seeds, study_of, write_report
from tests.report.test_paper_figures import figure_tables, imagenet_rows

CROPS = "five crops at 248"
MARK = f" ({CROPS})"


@pytest.fixture
def plain() -> list[ScoreRow]:
    return rows_of_two_seeds("s", "d", "b", ce=50.0, crt=55.0)


@pytest.fixture
def rows(plain) -> list[ScoreRow]:
    return [replace(row, crops=CROPS) for row in plain]


def test_without_crops_nothing_is_marked(plain):
    assert crops_mark(plain) == crops_note(plain) == ""
    assert named_with_crops([["method", "all"], ["ce", "50"]], plain) == [["method", "all"], ["ce", "50"]]


def test_names_and_notes_contain_the_crops(rows):
    assert crops_mark(rows) == MARK
    assert MARK in crops_note(rows)
    assert named_with_crops([["method", "all"], ["ce", "50"]], rows)[1] == [f"ce{MARK}", "50"]


def test_a_row_has_the_crops_of_its_evaluation():
    shots = {"many": 1.0, "medium": 2.0, "few": 3.0, "all": 4.0}
    scores = {
        "images": 4, "accuracy": shots, "oracle": shots, "group_recall": {"many": 1.0, "medium": 2.0, "few": 3.0},
        "top5": 1.0, "balanced": 2.0, "ece": 3.0, "balanced_se": 0.5, "wrong_by_group": [[0.0] * 3] * 3,
    }  # fmt: skip
    metrics = {"thresholds": "t", "splits": {"test": scores}}
    labels = {"method": "ce", "variant": "ce", "seed": 0, "order": 0}
    record = {"labels": labels, "dataset": "d", "backbone": "b", "inputs": {"head": "runs/d/b/train_head-0"}}
    with_crops = metrics | {"crops": {"number": 5, "resize": 248}}
    found = score_rows("s", [(record, metrics), (record, with_crops)])
    assert [row.crops for row in found] == ["", CROPS]


def test_the_crops_are_in_results_csv_and_missing_in_earlier_files(rows, tmp_path):
    path = tmp_path / "results.csv"
    path.write_text(to_csv(rows))
    assert {row.crops for row in from_csv(path)} == {CROPS}
    lines = [line.rsplit(",", 1)[0] for line in path.read_text().splitlines()]
    path.write_text("\n".join(lines))
    assert {row.crops for row in from_csv(path)} == {""}


def test_the_papers_tables_mark_each_result_by_its_own_study(rows, plain, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    other = Path("results", "other", "report", "results.csv")
    other.parent.mkdir(parents=True)
    other.write_text(to_csv([replace(row, study="other") for row in plain]))
    tables = {table.number: table for table in build_paper_tables(ResultsStore(rows[0].study, rows))}
    for number in (1, 2, 5):
        assert MARK in tables[number].caption
        cells = [cell for line in tables[number].lines[1:] for cell in line]
        assert f"ce{MARK}" in cells
    of_study = {line[0]: line[1] for line in tables[5].lines[1:] if line[1].startswith("ce")}
    assert of_study == {rows[0].study: f"ce{MARK}", "other": "ce"}


def test_table_1_marks_results_beside_published_ones(tmp_path):
    found = rows_of_two_seeds("study", "imagenet_lt", "resnext50", method="finetuned_sade", finetuned=60.0)
    rows = [replace(row, crops=CROPS) for row in found]
    lines = build_paper_tables(ResultsStore("study", rows, tmp_path))[0].lines[1:]
    marked = [line[-1].partition(",")[0].partition(":")[0] for line in lines if f"sade{MARK}" in line]
    assert marked == ["ours", "difference from tade"]
    assert sum(MARK in " ".join(line) for line in lines) == len(marked) < len(lines)


def test_tables_of_the_papers_figures_mark_every_result_of_the_study_and_no_other_number(tmp_path):
    sweeps = {"xi": {"of": "mem_on_crt", "over": {"xi": [20, 100]}}, "d": {"of": "mem_on_crt", "over": {"depth": [2]}}}
    study = study_of(tmp_path, sweeps=sweeps)
    accuracies = {name: 50.0 + number for number, name in enumerate(study.heads)}
    rows = [replace(row, crops=CROPS) for row in imagenet_rows(**accuracies)]
    tables = figure_tables(tmp_path, study, rows)
    assert all(MARK in line[0] for line in tables[1].lines[1:])
    for line in tables[3].lines[1:]:
        assert (MARK in line[0]) == (line[-1].startswith("ours") or line[-1] == "difference"), line
    for line in tables[4].lines[1:]:
        assert (MARK in line[1]) == ("not run" not in line), line
    assert all(any(MARK in cell for line in table.lines for cell in line) for table in tables.values())


def test_mem_results_states_the_crops(rows, tmp_path):
    path = tmp_path / "results" / rows[0].study / "report" / "results.csv"
    path.parent.mkdir(parents=True)
    path.write_text(to_csv(rows))
    text = study_summary(rows[0].study, tmp_path)
    assert f"accuracy on test in %{MARK}" in text
    assert crops_note(rows) in " ".join(text.split())


@pytest.mark.stage
def test_the_report_marks_scores_but_no_other_figures_and_tables(tmp_path):
    folder = write_report(tmp_path, study_of(tmp_path, seeds=[0, 1], evaluate={"crops": {"number": 2, "resize": 8}}))
    mark = " (center crop and its flip at 8)"
    page = (folder / "report" / "index.html").read_text()
    assert "mean logits of center crop and its flip at 8 (evaluate.crops)" in page
    for title in ("Accuracy on test", "Oracle accuracy", "Accuracy by shot group", "Norms of MEM&#39;s sub-networks"):
        assert f"{title}{mark}" in page, title
    for title in ("Training images per class", "Deviations from the paper", "Cost"):
        assert title in page and f"{title}{mark}" not in page, title
    for name in ("table.md", "differences.md"):
        text = (folder / "report" / name).read_text()
        assert f"| mem{mark} |" in text, text
        assert text.endswith("They are not comparable with scores of one central crop.\n")
