"""The paper's figures 1, 3 and 4 as tables: results of the study next to the paper's values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mem.config import Study
from mem.report.collect import StudyResults
from mem.report.paper_figures import build_figure_tables
from mem.report.paper_format import PaperTable
from mem.report.results import ScoreRow
from mem.report.results_store import ResultsStore
from tests.report.synthetic import rows_of_two_seeds, study_of

WRONG_COUNTS = np.array([[8.0, 1, 1], [30, 9, 1], [50, 40, 10]])


def figure_tables(folder: Path, study: Study, rows: list[ScoreRow]) -> dict[int, PaperTable]:
    """Return the tables of synthetic results by figure number."""
    results = StudyResults(rows, {row.variant: WRONG_COUNTS for row in rows})
    store = ResultsStore(rows[0].study, rows, folder)
    return {table.number: table for table in build_figure_tables(store, study, results)}


def imagenet_rows(
    study: str = "imagenet_lt_vit_base", backbone: str = "vit_base", **accuracies: float
) -> list[ScoreRow]:
    return rows_of_two_seeds(study, "imagenet_lt", backbone, **accuracies)


def test_figure_1_shows_error_shares_the_oracle_and_the_gain_of_mem(tmp_path):
    rows = [ScoreRow(**{**vars(row), "oracle_few": 70.0}) for row in imagenet_rows(ce=20.0, mem=33.0)]
    figure = figure_tables(tmp_path, study_of(tmp_path), rows)[1]
    assert figure.lines == [
        ["on test, %", "ours", "runs", "paper", "difference"],
        ["ce: medium shot's errors that land in many", "75.00", "2", "73.6", "+1.40"],
        ["ce: few shot's errors that land in many", "50.00", "2", "71.2", "−21.20"],
        ["ce: few shot's errors that land in medium", "40.00", "2", "27.2", "+12.80"],
        ["ce: few among all classes", "20.00 ± 0.00", "2", "24.9", "−4.90 ± 0.00"],
        ["ce: few with the shot given", "70.00 ± 0.00", "2", "67.9", "+2.10 ± 0.00"],
        ["mem minus ce: few", "+13.00", "2", "+11.9", "+1.10"],
    ]
    assert "both for ViT-Base on ImageNet-LT." in figure.caption
    assert "the paper reports 24.9 in the text and 21.1 in table 5" in figure.caption


def test_figure_3_shows_the_accuracies_of_the_papers_tables_and_its_claim(tmp_path):
    figure = figure_tables(tmp_path, study_of(tmp_path), imagenet_rows(ce=53.0, crt=58.0, mem=60.0))[3]
    assert ["ce", "73.4", "47.2", "21.1", "53.48", "paper, table 5"] in figure.lines
    assert ["mem", "−7.90 ± 0.00", "+4.10 ± 0.00", "+17.00 ± 0.00", "+1.83 ± 6.35", "difference"] in figure.lines
    assert ["crt", "-", "-", "-", "58.06", "paper, table 2"] in figure.lines
    assert ["lws", *["not run"] * 4, "-"] in figure.lines
    assert ["mem minus crt", *["+2.00"] * 4, "ours, paired"] in figure.lines
    assert ["mem minus crt", "-", "-", "-", "+0.82", "paper"] in figure.lines
    assert "higher on medium-shot and few-shot classes and slightly lower on many-shot classes" in figure.caption
    assert "Not run: tau, lws." in figure.caption


def test_figure_4_shows_one_block_and_the_gain_from_xi(tmp_path):
    sweeps = {"xi": {"of": "mem_on_crt", "over": {"xi": [20, 100]}}, "d": {"of": "mem_on_crt", "over": {"depth": [2]}}}
    study = study_of(tmp_path, sweeps=sweeps)
    rows = [
        ScoreRow(**{**vars(row), "variant": name, "all": row.all + (0.5 if vars(head).get("xi") == 100 else 0.0)})
        for name, head in study.heads.items()
        for row in imagenet_rows(mem=58.0)
    ]
    figure = figure_tables(tmp_path, study, rows)[4]
    one_block = ["mem_on_crt", *["58.00 ± 0.00"] * 3, "58.50 ± 6.35", "2", "58.72", "−0.22 ± 6.35"]
    assert ["depth 1", *one_block] in figure.lines
    xi = next(line for line in figure.lines if line[0] == "xi 100 minus xi 20")
    assert xi[5:] == ["+0.50", "2", "+0.2", "+0.30"]
    assert "Not run: other values of width, mu." in figure.caption


@pytest.mark.parametrize(
    ("study", "backbone"), [("imagenet_lt_vit_large", "vit_large"), ("table5_scratch_100", "vit_base")]
)
def test_no_difference_is_computed_for_another_backbone_or_without_pretraining(tmp_path, study, backbone):
    rows = imagenet_rows(study, backbone, ce=50.0, crt=58.0, mem=60.0)
    figures = figure_tables(tmp_path, study_of(tmp_path), rows)
    assert {line[-1] for line in figures[1].lines[1:]} == {line[-1] for line in figures[4].lines[1:]} == {"-"}
    assert not any(line[-1] == "difference" for line in figures[3].lines)
    assert all("so no difference is computed" in figure.caption for figure in figures.values())


def test_a_study_without_mem_or_without_ce_lists_it_as_not_run(tmp_path):
    study = study_of(tmp_path)
    without_mem = study_of(tmp_path, heads={"ce": None})
    figures = figure_tables(tmp_path, without_mem, rows_of_two_seeds("s", "d", "v", ce=50.0))
    assert figures[1].lines[-1] == ["mem minus ce: few", "not run", "-", "+11.9", "-"]
    assert "Not run: mem." in figures[1].caption
    assert ["depth 1, a transformer block", "-", *["not run"] * 4, "-", "58.72", "-"] in figures[4].lines
    figure1 = figure_tables(tmp_path, study, rows_of_two_seeds("s", "d", "v", mem=50.0))[1]
    assert figure1.lines[-1][:2] == ["mem minus mem: few", "not run"]
    assert "Not run: ce." in figure1.caption
