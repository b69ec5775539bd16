"""Every table of accuracies holds what the DAG wrote, or what the paper says."""

from __future__ import annotations

from pathlib import Path

import pytest

from mem.report.comparison import MANY_VARIANTS
from mem.report.results import from_csv, summarised, table, to_markdown, to_text
from mem.report.scored import accuracy_table, difference_text
from tests.conftest import REPOSITORY
from tests.docs.sources import PAGES, RESULTS
from tests.docs.tables import lines_of_unknown_origin, lines_on_pretraining


@pytest.mark.parametrize("path", RESULTS, ids=lambda p: p.parent.name)
def test_a_page_of_results_holds_the_tables_that_the_dag_wrote(path: Path):
    page = path.parent.with_suffix(".md").read_text()
    rows = from_csv(path)
    assert rows[0].thresholds in page
    if len({row.variant for row in rows}) > MANY_VARIANTS:
        # As the report has them in table.md and differences.md.
        assert to_markdown(accuracy_table(rows)) in page
        for split in ("test", "val"):
            assert to_markdown(difference_text(rows, split) or []) in page, split
        return
    for split in ("test", "val"):
        assert to_markdown(table(summarised(rows, split))) in page, split


def test_readme_shows_the_table_that_the_dag_wrote():
    rows = from_csv(REPOSITORY / "docs" / "results" / "digits_lt" / "results.csv")
    assert to_text(table(summarised(rows, "test"))) in (REPOSITORY / "README.md").read_text()


def test_the_page_on_pretraining_states_the_differences_between_the_two_studies():
    page = (REPOSITORY / "docs" / "results" / "fashion_scratch.md").read_text()
    assert all(line in page for line in lines_on_pretraining())


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(REPOSITORY)))
def test_every_line_of_accuracies_is_one_that_the_dag_wrote_or_the_paper_has(page: Path):
    assert lines_of_unknown_origin(page.read_text()) == []


@pytest.mark.parametrize(
    "page",
    [
        "| method | many | medium | few | all |\n|---|---:|---:|---:|---:|\n| crt | 99.50 | 96.67 | 92.67 | 96.61 |\n",
        "| minus crt | difference |\n|---|---|\n| mem | +0.10 ± 0.31 |\n",
        "| backbone | MEM |\n|---|---|\n| [r](../config/paper/imagenet_lt_resnext50.yaml) | 49.61 |\n",
        "| reading | top-1 |\n|---|---|\n| ours | 73 % |\n",
        "```\nmethod   many    all\n--------------------\ncrt     99.50  96.61\n```\n",
    ],
)
def test_a_line_that_neither_has_is_found(page: str):
    assert len(lines_of_unknown_origin(page)) == 1
