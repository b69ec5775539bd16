"""The documentation says what the code and the DAG say."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from mem.report.results import from_csv, summarised, table, to_markdown, to_text
from tests.conftest import REPOSITORY

RESULTS = sorted((REPOSITORY / "docs" / "results").glob("*/results.csv"))
PAGES = [REPOSITORY / "README.md", REPOSITORY / "CHANGELOG.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]


@pytest.mark.parametrize("path", RESULTS, ids=lambda p: p.parent.name)
def test_a_page_of_results_holds_the_tables_that_the_dag_wrote(path: Path):
    page = path.parent.with_suffix(".md").read_text()
    rows = from_csv(path)
    for split in ("test", "val"):
        assert to_markdown(table(summarised(rows, split))) in page, split
    assert rows[0].thresholds in page


def test_readme_shows_the_table_that_the_dag_wrote():
    rows = from_csv(REPOSITORY / "docs" / "results" / "digits_lt" / "results.csv")
    assert to_text(table(summarised(rows, "test"))) in (REPOSITORY / "README.md").read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(REPOSITORY)))
def test_links_lead_somewhere(page: Path):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def test_nothing_of_this_machine_stands_in_the_repository():
    listed = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    for name in listed.splitlines():
        path = REPOSITORY / name
        if path.suffix in (".png", ".svg") or not path.is_file():
            continue
        content = path.read_text(errors="ignore")
        for forbidden in ("/" + "root/", "/" + "work/", "python" + "hosted.org", "--index-" + "url http"):
            assert forbidden not in content, (name, forbidden)
