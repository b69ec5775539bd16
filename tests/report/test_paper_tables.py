"""The paper's tables: results of the study next to the paper's numbers."""

from __future__ import annotations

from pathlib import Path

import pytest

from mem.report.paper_format import PaperTable, paper_numbers
from mem.report.paper_tables import build_paper_tables
from mem.report.results import ScoreRow, to_csv
from mem.report.results_store import ResultsStore
from tests.report.synthetic import rows_of_two_seeds


def table(number: int, store: ResultsStore) -> PaperTable:
    return next(table for table in build_paper_tables(store) if table.number == number)


def write_results(folder: Path, study: str, rows: list[ScoreRow]) -> None:
    (folder / study / "report").mkdir(parents=True)
    (folder / study / "report" / "results.csv").write_text(to_csv(rows))


VIT = rows_of_two_seeds("imagenet_lt_vit_base", "imagenet_lt", "vit_base", ce=53.0, crt=58.0, mem=60.0)


def test_results_are_shown_next_to_the_papers_numbers_with_the_difference_and_what_was_not_run(tmp_path):
    table2 = table(2, ResultsStore("imagenet_lt_vit_base", VIT, tmp_path))
    assert ["vit_base", "mem", "60.50 ± 6.35", "2", "58.88", "+1.62 ± 6.35"] in table2.lines
    assert ["vit_base", "lws", "not run", "-", "57.87", "-"] in table2.lines
    assert ["resnext50", "mem", "not run", "-", "49.6", "-"] in table2.lines
    assert "Not run: resnext50, vit_large, convmae_base." in table2.caption


def test_the_table_of_places_lt_says_that_the_paper_s_tau_contradicts_its_source(tmp_path):
    rows = rows_of_two_seeds("places_lt_vit_base", "places_lt", "vit_base", ce=36.0, tau=40.0)
    store = ResultsStore("places_lt_vit_base", rows, tmp_path)
    note = "Kang et al. (2020) published 37.9 for tau and 30.2 for CE with ResNet-152."
    assert note in table(4, store).caption
    assert note not in table(2, store).caption


def test_other_studies_in_the_folder_fill_their_columns(tmp_path):
    resnext = rows_of_two_seeds("imagenet_lt_resnext50", "imagenet_lt", "resnext50", mem=49.0)
    write_results(tmp_path, "imagenet_lt_resnext50", resnext)
    lines = table(2, ResultsStore("imagenet_lt_vit_base", VIT, tmp_path)).lines
    assert ["resnext50", "mem", "49.50 ± 6.35", "2", "49.6", "−0.10 ± 6.35"] in lines


def test_methods_of_other_papers_are_listed_as_cited_and_not_run(tmp_path):
    lines = table(1, ResultsStore("imagenet_lt_vit_base", VIT, tmp_path)).lines
    assert ["imagenet_lt", "paco", "68.2", "58.7", "41.0", "60.0", "cited, not run"] in lines
    assert ["imagenet_lt", "ace", "-", "-", "-", "56.6", "cited, not run"] in lines
    assert not any(line[-1].startswith("ours") for line in lines)
    large = rows_of_two_seeds("imagenet_lt_vit_large", "imagenet_lt", "vit_large", mem=64.0)
    lines = table(1, ResultsStore("imagenet_lt_vit_large", large, tmp_path)).lines
    assert ["imagenet_lt", "mem", *["64.00 ± 0.00"] * 3, "64.50 ± 6.35", "ours, 2 runs"] in lines
    assert any(line[-1] == "difference" and line[-2] == "−0.40 ± 6.35" for line in lines)


@pytest.mark.parametrize("study", ["table5_scratch_100", "table5_scratch_100_layer_decay"])
def test_a_study_from_scratch_is_in_table_5_and_does_not_count_as_the_pretrained_recipe(tmp_path, study):
    scratch = rows_of_two_seeds(study, "imagenet_lt", "vit_base", ce=27.0, mem=30.0)
    store = ResultsStore(study, scratch, tmp_path)
    assert all(line[2] == "not run" for line in table(2, store).lines[1:])
    by_head = {tuple(line[:2]): line for line in table(5, store).lines}
    assert by_head[study, "ce"][5:] == ["27.50 ± 6.35", "2", "27.72", "−0.22 ± 6.35"]
    assert by_head["imagenet_lt_vit_base", "mem"][5] == "not run"


def test_all_numbers_of_the_paper_are_present():
    paper = paper_numbers()
    assert [entry["table"] for entry in paper["tables"]] == [2, 3, 4]
    assert set(paper["table1"]) == {"imagenet_lt", "inat18", "places_lt"}
    assert len(paper["table5"]) == 7
    assert paper["figure1"]["misclassified_to"]["medium_to_many"] == pytest.approx(73.6)
