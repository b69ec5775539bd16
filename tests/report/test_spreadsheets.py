"""CSV files of a report contain nothing that a spreadsheet program executes, and unchanged numbers and names."""

from __future__ import annotations

import csv
import io
from dataclasses import replace

import pytest

from mem.report.results import ScoreRow, from_csv, to_csv
from mem.report.table_formats import csv_table, text_table, without_formula

ROW = ScoreRow(
    study="digits", dataset="digits", backbone="vit", method="mem", variant="mem", seed=0, order=0, split="test",
    thresholds="many > 100, few < 20", many=1.0, medium=2.0, few=3.0, all=4.0, key="000000000000",
)  # fmt: skip


@pytest.mark.parametrize(
    "cell", ["=cmd|' /C calc'!A1", "@SUM(A1)", "+cmd|x", "-cmd|x", "-2+3+cmd|x", "+1+A1", "\t=1+1", "=1"]
)
def test_formulas_are_text(cell):
    assert without_formula(cell) == f"'{cell}"
    assert csv_table([["method", "all"], [cell, "1.0"]]).splitlines()[1].lstrip('"').startswith("'")
    written = list(csv.DictReader(io.StringIO(to_csv([replace(ROW, variant=cell, thresholds=cell)]), newline="")))
    assert (written[0]["variant"], written[0]["thresholds"]) == (f"'{cell}", f"'{cell}")


def test_a_line_break_in_front_does_not_hide_a_formula():
    assert without_formula("\r=1+1") == "'\r=1+1"


@pytest.mark.parametrize(
    "cell",
    [
        "-0.12 ± 0.30",
        "-1.0 (-2.0, 0.5)",
        "+1.00 (−0.50 to +2.00)",
        "+1.5",
        "-",
        "- 1",
        "-.5",
        "1e-3",
        "vit",
        "many > 100",
        "a=b",
        "",
    ],
)
def test_numbers_and_names_are_not_changed(cell):
    assert without_formula(cell) == cell


def test_the_results_file_is_read_back_unchanged(tmp_path):
    path = tmp_path / "results.csv"
    path.write_text(to_csv([ROW]))
    assert from_csv(path)[0].variant == "mem"
    assert "'" not in path.read_text()


def test_tables_on_the_terminal_contain_no_control_characters():
    assert text_table([["method"], ["\x1b[2Jmem"]]).splitlines()[2] == r"\x1b[2Jmem"
