"""Marks of transductive results in tables, in `results.csv` and in the terminal; no choice on val of such a head."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mem.report import figure_set, figures
from mem.report.chosen_heads import chosen_head_table
from mem.report.collect import StudyResults
from mem.report.marked_tables import marked_table
from mem.report.method_tables import accuracy_table
from mem.report.page import CaptionedFigure, CaptionedTable
from mem.report.paper_tables import build_paper_tables
from mem.report.plot_elements import RenderedFigure
from mem.report.ranking import best_on_val, best_on_val_text, reference_variant, sorted_variants, variants_to_plot
from mem.report.results import ScoreRow, from_csv, to_csv
from mem.report.results_store import ResultsStore
from mem.report.terminal import study_summary
from mem.report.transductive import MARK, NOTE, marked_lines, transductive_heads
from tests.report.synthetic import rows_of_two_seeds

GAINS = {"ce": 0.0, "crt": 2.0, "sade": 9.0, "mem": 1.0, "mem_2": 1.5}


def row(variant: str, order: int, split: str) -> ScoreRow:
    score = 50.0 + GAINS[variant] + order
    method = "mem" if variant.startswith("mem") else variant
    shots = dict.fromkeys(("many", "medium", "few", "all"), score)
    return ScoreRow(
        "s", "d", "b", method, variant, 0, order, split, "t", **shots, key="k", balanced=score, balanced_se=0.5,
        transductive=variant == "sade",
    )  # fmt: skip


@pytest.fixture
def rows() -> list[ScoreRow]:
    return [row(variant, order, split) for variant in GAINS for order in (0, 1) for split in ("val", "test")]


def test_the_best_head_on_val_is_not_transductive(rows):
    assert best_on_val([replace(row, transductive=False) for row in rows]) == "sade"
    assert best_on_val(rows) == "crt"
    assert best_on_val_text(rows).startswith("crt, ")


def test_figures_do_not_show_a_transductive_head_as_one_of_the_best_on_val(rows):
    assert variants_to_plot([replace(row, transductive=False) for row in rows], 3) == ["ce", "crt", "sade"]
    assert variants_to_plot(rows, 3) == ["ce", "crt", "mem"]
    assert "sade" not in variants_to_plot(rows, 4)
    assert variants_to_plot(rows, 5) == list(GAINS)


def test_figures_mark_the_head(rows, mini, monkeypatch):
    names: dict[str, list[str]] = {}

    def record(figure: str, values: Mapping[str, object]) -> RenderedFigure:
        names[figure] = list(values)
        return RenderedFigure("<svg/>", b"")

    for figure in ("shot_points", "error_matrices", "oracle_points"):
        monkeypatch.setattr(figures, figure, lambda values, *_, figure=figure: record(figure, values))
    monkeypatch.setattr(figure_set, "_ablations", lambda *_: [])
    monkeypatch.setattr(
        figure_set, "_histogram", lambda *_: CaptionedFigure("classes", "", "", RenderedFigure("<svg/>", b""))
    )
    wrong = dict.fromkeys(GAINS, np.ones((3, 3)))
    figure_set.build_figures(mini, [], {}, StudyResults(rows=rows, wrong_counts=wrong))
    expected = [f"{name}{MARK}" if name == "sade" else name for name in GAINS]
    assert names == dict.fromkeys(("shot_points", "error_matrices", "oracle_points"), expected)


def test_many_heads_are_sorted_by_val_with_transductive_ones_last(rows):
    many = [replace(row, variant=f"mem_{i}") for i in range(3, 12) for row in rows if row.variant == "mem"]
    inductive = [replace(row, transductive=False) for row in [*rows, *many]]
    assert sorted_variants(inductive)[0] == "sade"
    assert variants_to_plot(inductive, 3) == ["sade", "crt", "ce"]
    variants = sorted_variants([*rows, *many])
    assert variants[:3] == ["crt", "mem_2", "mem"]
    assert variants[-2:] == ["ce", "sade"]
    assert variants_to_plot([*rows, *many], 3) == ["crt", "mem_2", "ce"]


def test_the_reference_of_the_differences_is_not_transductive(rows):
    without_crt = [row for variant in ("sade", "ce", "mem") for row in rows if row.variant == variant]
    assert reference_variant([replace(row, transductive=False) for row in without_crt]) == "sade"
    assert reference_variant(without_crt) == "ce"
    on_a_variant = [replace(row, finetuning="" if row.variant == "sade" else "a") for row in without_crt]
    assert reference_variant(on_a_variant) == "ce"
    assert reference_variant([row for row in rows if row.variant == "sade"]) == "sade"


def test_a_transductive_reference_is_marked_in_the_heading(rows, tmp_path):
    folder = tmp_path / "results" / "s" / "report"
    folder.mkdir(parents=True)
    (folder / "results.csv").write_text(to_csv(rows))
    assert f"Difference from sade{MARK} " in study_summary("s", tmp_path, minus="sade")
    assert "Difference from crt " in study_summary("s", tmp_path)


def test_a_transductive_head_does_not_represent_other_methods(rows):
    shown = str(chosen_head_table([replace(row, transductive=False) for row in rows]))
    assert "sade (2)" in shown
    assert "sade" not in str(chosen_head_table(rows))


def test_the_rows_of_results_csv_keep_the_mark(rows, tmp_path):
    path = tmp_path / "results.csv"
    path.write_text(to_csv(rows))
    assert transductive_heads(from_csv(path)) == ["sade"]
    assert from_csv(path)[0].transductive is False


def test_rows_of_an_earlier_version_are_not_transductive(rows, tmp_path):
    path = tmp_path / "results.csv"
    table = list(csv.reader(to_csv(rows).splitlines()))
    column = table[0].index("transductive")
    path.write_text("\n".join(",".join([*line[:column], *line[column + 1 :]]) for line in table))
    assert not any(row.transductive for row in from_csv(path))


def test_every_mention_of_the_name_is_marked_once(rows):
    lines = marked_lines([["method", "all"], ["sade", "1"], ["sade, group given", "2"], ["sade.lr1", "3"]], ["sade"])
    names = [line[0] for line in lines]
    assert names == ["method", f"sade{MARK}", f"sade{MARK}, group given", "sade.lr1"]
    assert marked_lines(lines, ["sade"]) == lines
    table = CaptionedTable("t", "sade is best.", lines)
    marked = marked_table(table, ["sade"])
    assert marked.caption == f"sade{MARK} is best. {NOTE}"
    other = CaptionedTable("t", "Text.", accuracy_table(rows))
    assert marked_table(other, []) == other


def test_only_names_of_heads_are_marked_in_headers_and_columns():
    head = f"all{MARK}"
    lines = [["data set", "method", "all"], ["all", "all", "1"], ["all", "mem", "2"]]
    assert marked_lines(lines, ["all"]) == [lines[0], ["all", head, "1"], lines[2]]
    differences = [["minus all", "all", "p"], ["mem", "1", "0.5"]]
    assert marked_lines(differences, ["all"]) == [[f"minus {head}", "all", "p"], differences[1]]
    assert marked_lines([["study", "head"], ["all", "all"]], ["all"])[1] == ["all", head]
    assert marked_lines([], ["all"]) == []


@pytest.mark.parametrize("name", ["sade", "imagenet_lt", "study"])
def test_table_1_marks_heads_but_neither_published_methods_nor_studies_or_data_sets(name, tmp_path):
    published = rows_of_two_seeds("study", "imagenet_lt", "resnext50", method="finetuned_sade", finetuned=60.0)
    table = build_paper_tables(ResultsStore("study", published, tmp_path))[0]
    assert {"sade", "imagenet_lt"} <= {cell for line in table.lines for cell in line}
    assert any(line[-1] == "ours, 2 runs: study, resnext50, head finetuned" for line in table.lines)
    assert marked_table(table, [name]).lines == table.lines

    own = rows_of_two_seeds("study", "glyphs", "resnext50", ce=50.0, sade_aggregation=60.0)
    table = build_paper_tables(ResultsStore("study", own, tmp_path))[0]
    heads = [line[1] for line in marked_table(table, ["sade_aggregation"]).lines[1:]]
    assert heads == ["ce", f"sade_aggregation{MARK}"]


def test_the_terminal_marks_the_head_and_explains_the_mark(rows, tmp_path):
    folder = tmp_path / "results" / "s" / "report"
    folder.mkdir(parents=True)
    Path(folder / "results.csv").write_text(to_csv(rows))
    text = study_summary("s", tmp_path)
    assert text.count(f"sade{MARK}") == 2  # accuracy, and difference from crt
    assert NOTE.split(".")[0] in text
    assert "Best on val (mean per-class accuracy): crt" in text
