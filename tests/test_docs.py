"""The documentation says what the code and the DAG say."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml
from pydantic import TypeAdapter
from scipy import stats

from mem.config import Dataset
from mem.report.results import from_csv, summarised, table, to_markdown, to_text
from mem.study import load_study
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


DATA = (REPOSITORY / "docs" / "data.md").read_text()
EXAMPLES = [block for block in re.findall(r"```yaml\n(.*?)```", DATA, re.DOTALL) if block.startswith("dataset:")]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda block: yaml.safe_load(block)["dataset"]["source"])
def test_the_examples_of_data_sets_are_valid(example: str):
    settings = TypeAdapter(Dataset).validate_python(yaml.safe_load(example)["dataset"])
    assert settings.has_val() is not False


def test_the_example_of_a_refit_takes_the_holdout_away(tmp_path: Path):
    (refit,) = (block for block in re.findall(r"```yaml\n(.*?)```", DATA, re.DOTALL) if block.startswith("# refit"))
    (tmp_path / "refit.yaml").write_text(refit)
    study = load_study([REPOSITORY / "config" / "cifar100_lt.yaml", tmp_path / "refit.yaml"])
    assert (study.study, study.dataset.has_val(), study.heads["tau"].taus) == ("cifar100_lt_refit", False, (0.8,))


@pytest.mark.parametrize("variant", ["ce", "crt"])
def test_the_page_on_pretraining_states_the_differences_between_the_two_studies(variant: str):
    folder = REPOSITORY / "docs" / "results"
    scores = {}
    for study in ("fashion_lt", "fashion_scratch"):
        rows = [
            row for row in from_csv(folder / study / "results.csv") if row.variant == variant and row.split == "test"
        ]
        scores[study] = np.array(
            [[row.many, row.medium, row.few, row.all] for row in sorted(rows, key=lambda r: r.seed)]
        )
    difference = scores["fashion_lt"] - scores["fashion_scratch"]
    seeds = len(difference)
    half = stats.t.ppf(0.975, seeds - 1) * difference.std(axis=0, ddof=1) / np.sqrt(seeds)
    cells = [f"{mean:+.2f} ± {width:.2f}" for mean, width in zip(difference.mean(axis=0), half, strict=True)]
    assert f"| {variant} | {' | '.join(cells)} |" in (folder / "fashion_scratch.md").read_text()
