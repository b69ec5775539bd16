"""Accuracy tables in the documentation match the results files and the paper's numbers."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from docs._site.tables import BLOCK, RESULTS, START_PAGE, _error_shares, regenerate
from mem.report.paper_format import paper_numbers
from mem.report.results import SHOTS, from_csv, score_table, summarise
from mem.report.table_formats import text_table
from tests.conftest import REPOSITORY

PAGES = sorted(RESULTS.glob("*.md"))


@pytest.mark.parametrize("page", [START_PAGE, *PAGES], ids=lambda p: p.stem)
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


def test_the_group_is_named_by_all_images_also_in_files_of_earlier_versions(tmp_path: Path):
    fields = "study,dataset,backbone,method,variant,seed,order,split,thresholds,many,medium,few,all,key"
    recalls = "group_recall_many,group_recall_medium,group_recall_few,group_by_norm"
    run = "s,d,b,{0},{0},0,{1},test,t,0,0,0,0,k"
    rows = {
        ("crt", 0): "90,60,30,nan",
        ("crt", 1): "80,70,60,nan",
        ("mem", 0): "90,60,20,66",
        ("mem", 1): "80,70,60,68",
    }
    earlier = "".join(f"{run.format(*name)},{row}\n" for name, row in rows.items())
    later = "".join(f"{run.format(*name)},{row},50\n" for name, row in rows.items())
    (tmp_path / "page").mkdir()
    page = tmp_path / "page.md"
    page.write_text("<!-- table: group_naming split=test minus=crt classes=5,3,2 -->\n<!-- /table -->\n")
    # By hand: cRT's classes name 0.5 x 90 + 0.3 x 60 + 0.2 x 30 = 69 and 73 %. Two orders: t = 12.706.
    (tmp_path / "page" / "results.csv").write_text(f"{fields},{recalls}\n{earlier}")
    assert "| crt | 71.00 ± 25.41 | - | - |" in regenerate(page)
    assert "| mem | 70.00 ± 38.12 | 67.00 ± 12.71 | −4.00 ± 12.71 |" in regenerate(page)
    (tmp_path / "page" / "results.csv").write_text(f"{fields},{recalls},group_recall_all\n{later}")
    assert "| mem | 50.00 ± 0.00 | 67.00 ± 12.71 | +17.00 ± 12.71 |" in regenerate(page)


def test_names_of_results_with_several_crops_have_a_mark(tmp_path: Path):
    (tmp_path / "page").mkdir()
    (tmp_path / "page" / "results.csv").write_text(
        "study,dataset,backbone,method,variant,seed,order,split,thresholds,many,medium,few,all,key,crops\n"
        "s,d,b,ce,ce,0,0,test,t,1,2,3,4,k,five crops at 248\n"
    )
    page = tmp_path / "page.md"
    page.write_text("<!-- table: scores split=test -->\n<!-- /table -->\n")
    assert "| ce (five crops at 248) | 1.00 |" in regenerate(page)


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
        (REPOSITORY / "docs" / "reference" / "recipes.md").read_text().partition("## Recipes for table 1")[0],
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


def test_errors_are_counted_by_the_groups_of_the_image_and_of_the_predicted_class(tmp_path: Path):
    # Two many-shot classes, a medium-shot and a few-shot class. The few-shot class has four errors.
    table = pa.table({"label": [3, 3, 3, 3, 3, 0, 2], "ce": [0, 1, 2, 0, 3, 2, 3]})
    file = tmp_path / "order1-seed0.parquet"
    pq.write_table(table.replace_schema_metadata({"shot_of_class": "[0, 0, 1, 2]"}), file)
    assert _error_shares(file, "ce").tolist() == [[0, 100, 0], [0, 0, 100], [75, 25, 0]]
