"""The documentation says what the code and the DAG say."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import yaml
from pydantic import TypeAdapter
from safetensors.torch import save_file
from scipy import stats

from mem.config import Dataset
from mem.report.comparison import MANY_VARIANTS, val_means
from mem.report.results import from_csv, summarised, table, to_markdown, to_text
from mem.report.scored import accuracy_table, difference_text
from mem.study import load_study
from tests.conftest import REPOSITORY

RESULTS = sorted((REPOSITORY / "docs" / "results").glob("*/results.csv"))
PAGES = [REPOSITORY / "README.md", REPOSITORY / "CHANGELOG.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]


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


HEADS = ("ce", "tau", "crt", "lws", "mem")


def scores_that_the_dag_wrote() -> set[str]:
    """Every cell of a method table of docs/results/, and every number of the paper's tables."""
    written = {
        str(score)
        for path in RESULTS
        for split in ("test", "val")
        for scores in summarised(from_csv(path), split).values()
        for score in scores.values()
    }
    # Wide tables have the mean on val alone.
    written |= {f"{mean:.2f}" for path in RESULTS for mean in val_means(from_csv(path)).values()}
    return written | set(re.findall(r"\d+\.\d+", (REPOSITORY / "mem" / "report" / "paper.yaml").read_text()))


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(REPOSITORY)))
def test_every_table_of_accuracies_holds_what_the_dag_wrote_or_the_paper_says(page: Path):
    known = scores_that_the_dag_wrote()
    for line in page.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        # Lines of differences have signs, and a test of their own.
        if line.startswith("|") and cells[0] in HEADS and not any(cell[:1] in ("+", "−") for cell in cells[1:]):
            for cell in cells[1:]:
                if re.fullmatch(r"\d+\.\d\d( ± \d+\.\d\d)?", cell):
                    assert cell in known, (page.name, line)


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


PYTHON = re.findall(r"```python\n(.*?)```", (REPOSITORY / "docs" / "own-backbone.md").read_text(), re.DOTALL)


def test_the_five_lines_on_ones_own_backbone_run(tmp_path: Path, monkeypatch, capsys):
    (example,) = PYTHON
    assert len([line for line in example.splitlines() if line]) == 5
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    save_file(timm.create_model("resnet18", num_classes=10).state_dict(), "resnet18.safetensors")
    labels = np.repeat(np.arange(6), [101, 101, 30, 25, 10, 8])
    images = torch.randn(len(labels), 3, 32, 32)
    exec(example, {"train_images": images, "train_labels": labels, "test_images": images[:7]})
    assert capsys.readouterr().out.count("tensor(") == 3
