"""Accuracy tables in the documentation match the results files and the paper's numbers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from docs._site.tables import BLOCK, RESULTS, regenerate
from mem.report.paper_format import paper_numbers
from mem.report.results import SHOTS, from_csv, score_table, summarise
from mem.report.table_formats import text_table
from tests.conftest import REPOSITORY

PAGES = sorted(RESULTS.glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_regenerating_the_tables_of_a_results_page_changes_nothing(page: Path):
    assert page.read_text() == regenerate(page), "Run `make tables` and commit the pages."


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_a_results_page_has_no_table_that_is_written_by_hand(page: Path):
    text = page.read_text()
    assert BLOCK.search(text)
    assert not re.search(r"^\|", BLOCK.sub("", text), re.MULTILINE)
    assert from_csv(page.with_suffix("") / "results.csv")[0].thresholds in text


def test_every_results_csv_has_a_page():
    assert {path.parent.name for path in RESULTS.glob("*/results.csv")} == {page.stem for page in PAGES}


def test_a_changed_digit_in_a_table_is_found(tmp_path: Path):
    (tmp_path / "digits_lt").symlink_to(RESULTS / "digits_lt")
    page = tmp_path / "digits_lt.md"
    page.write_text((RESULTS / "digits_lt.md").read_text().replace("| 96.60 |", "| 96.61 |"))
    assert page.read_text() != regenerate(page) == (RESULTS / "digits_lt.md").read_text()


def test_the_group_oracle_is_a_row_of_a_table(tmp_path: Path):
    (tmp_path / "digits_lt").symlink_to(RESULTS / "digits_lt")
    page = tmp_path / "digits_lt.md"
    page.write_text("<!-- table: scores split=test given=ce,crt -->\n<!-- /table -->\n")
    oracle = summarise(from_csv(RESULTS / "digits_lt" / "results.csv"), "test", ["oracle_few"])["crt"]["oracle_few"]
    line = next(line for line in regenerate(page).splitlines() if line.startswith("| crt, group given |"))
    assert line.split("|")[4].strip() == str(oracle)


@pytest.mark.parametrize(
    "options",
    ["scores split=test given=crtt", "scores split=test heads=crtt", "unknown split=test", "scores heads=crt"],
)
def test_a_block_that_names_something_unknown_is_refused(tmp_path: Path, options: str):
    (tmp_path / "digits_lt").symlink_to(RESULTS / "digits_lt")
    page = tmp_path / "digits_lt.md"
    page.write_text(f"<!-- table: {options} -->\n<!-- /table -->\n")
    with pytest.raises(KeyError):
        regenerate(page)


def test_the_readme_shows_the_scores_of_digits_lt():
    rows = from_csv(RESULTS / "digits_lt" / "results.csv")
    assert text_table(score_table(summarise(rows, "test"))) in (REPOSITORY / "README.md").read_text()


def test_the_table_of_recipes_has_the_accuracies_of_the_paper():
    lines = re.findall(
        r"^\| \[(\w+)\]\([^)]*\) \|.*\| ([\d.]*) ?\| ([\d.]*) ?\| ([\d.]*) ?\|$",
        (REPOSITORY / "docs" / "reference" / "recipes.md").read_text(),
        re.MULTILINE,
    )
    paper: dict[str, dict[str, str]] = {}
    for part in paper_numbers()["tables"]:
        for column, backbone in enumerate(part["backbones"]):
            scores = {head: f"{part[head][column]:.2f}" for head in ("ce", "crt", "mem")}
            paper[f"{part['dataset']}_{backbone}"] = scores
    for row in paper_numbers()["table5"]:
        if row["recipe"].startswith("table5_"):
            paper[row["recipe"]] = {row["head"]: f"{row['shots'][SHOTS.index('all')]:.2f}"}
    assert len(lines) == 18
    for name, *scores in lines:
        recipe = name.removesuffix("_layer_decay")
        assert scores == [paper[recipe].get(head, "") for head in ("ce", "crt", "mem")], recipe
