"""The recipes of the paper's tables: there is one for each, and none drifts from docs/reference/recipes.md."""

from __future__ import annotations

import re
from fnmatch import fnmatch
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
import yaml

from mem.config import Study
from mem.config.load import load_study
from mem.plan.hours import Rates
from mem.plan.text import estimated
from tests.conftest import REPOSITORY

FOLDER = REPOSITORY / "config" / "paper"
PAGE = REPOSITORY / "docs" / "reference" / "recipes.md"
PAPER = yaml.safe_load((REPOSITORY / "mem" / "report" / "paper.yaml").read_text())
RECIPES = sorted(path.stem for path in FOLDER.glob("*.yaml") if path.stem != "holdout")
SCORES = [
    (f"{table['dataset']}_{backbone}", method, table[method][i])
    for table in PAPER["tables"]
    for i, backbone in enumerate(table["backbones"])
    for method in ("ce", "tau", "crt", "lws", "mem")
]
NO_HYPERPARAMETERS = (
    "study",
    "description",
    "compute.*",
    "*.method",
    "*.name",
    "dataset.source",
    "dataset.root",
    "dataset.*_list",
)
"""Names, places and machines."""


@cache
def study(recipe: str) -> Study:
    return load_study([FOLDER / f"{recipe}.yaml"])


@cache
def settings(recipe: str) -> dict[str, Any]:
    """What a recipe says, by dotted name."""
    found: dict[str, Any] = {}

    def walk(value: Any, name: str) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(inner, f"{name}.{key}" if name else key)
        else:
            found[name] = value

    walk(study(recipe).model_dump(mode="json", exclude_unset=True), "")
    return {k: v for k, v in found.items() if not any(fnmatch(k, pattern) for pattern in NO_HYPERPARAMETERS)}


def documented() -> list[tuple[str, Any, list[str]]]:
    """The page's lines: a pattern of settings, their value, patterns of recipes."""
    lines = re.findall(r"^\| `([^`]+)` \| ([^|]+) \| ([^|]+) \| [^|]+ \|$", PAGE.read_text(), re.MULTILINE)
    return [(name, yaml.safe_load(value), [p.strip() for p in recipes.split(",")]) for name, value, recipes in lines]


def concerns(patterns: list[str], recipe: str) -> bool:
    return any(fnmatch(recipe, pattern) for pattern in patterns)


def head(recipe: str) -> str:
    """The comment at a recipe's top."""
    lines = (FOLDER / f"{recipe}.yaml").read_text().splitlines()
    return "\n".join(takewhile(lambda line: line.startswith("#"), lines))


def test_every_data_set_and_backbone_of_the_tables_has_a_recipe():
    assert len(SCORES) == 3 * 4 * 5
    assert {recipe for recipe, _, _ in SCORES} | {row["recipe"] for row in PAPER["table5"]} == set(RECIPES)


@pytest.mark.parametrize(("recipe", "method", "score"), SCORES)
def test_a_recipe_has_the_heads_of_its_table_and_says_what_to_expect_of_them(recipe, method, score):
    assert study(recipe).heads[method].method == method
    assert f"{method} {score:.2f}" in head(recipe)
    assert f"{method} {score:.2f}" in study(recipe).description


@pytest.mark.parametrize("row", PAPER["table5"], ids=lambda row: f"{row['recipe']} {row['head']}")
def test_table_5_has_its_heads_and_says_what_to_expect(row):
    assert row["head"] in study(row["recipe"]).heads
    assert f"{row['shots'][3]}" in head(row["recipe"])


def test_the_page_holds_a_line_for_each_setting_of_the_paper():
    assert len(documented()) > 100
    for name, _, recipes in documented():
        used = [r for r in RECIPES if concerns(recipes, r)]
        assert used, f"the line for {name} names no recipe"
        assert any(fnmatch(key, name) for r in used for key in settings(r)), f"{name} is no setting of {used}"


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_setting_of_a_recipe_stands_on_the_page_with_its_value_and_source(recipe):
    lines = [(name, value) for name, value, recipes in documented() if concerns(recipes, recipe)]
    for key, value in settings(recipe).items():
        matching = [expected for name, expected in lines if fnmatch(key, name)]
        assert matching, f"{recipe}: {key} = {value} stands in no line of docs/reference/recipes.md"
        assert all(expected == value for expected in matching), f"{recipe}: {key} is {value}, the page says {matching}"


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_says_how_it_is_run_what_it_takes_and_how_it_differs(recipe):
    _, estimates = estimated(study(recipe), {}, Rates(core_gflops=50))
    gpu_hours = sum(e.hours * e.gpus for e in estimates)
    said = re.search(rf"snakemake --profile slurm --config study=paper/{recipe} +GPU-hours: ([\d.]+)\n", head(recipe))
    assert said, head(recipe)
    assert float(said[1]) == pytest.approx(gpu_hours, rel=0.02, abs=0.06)
    assert "# Differs from the paper" in head(recipe)
    row = re.search(rf"^\| \[{recipe}\]\(\S+\) \| [^|]+ \| ([\d.]+) \|", PAGE.read_text(), re.MULTILINE)
    assert row, f"{recipe} is missing in the first table of docs/reference/recipes.md"
    assert row[1] == said[1]


def test_the_holdout_gives_val_to_data_that_have_none():
    chosen = load_study([FOLDER / "inat18_vit_base.yaml", FOLDER / "holdout.yaml"])
    assert chosen.dataset.has_val()
    assert not study("inat18_vit_base").dataset.has_val()
    assert len(chosen.heads["tau"].taus) == 21  # type: ignore[union-attr]


def test_recipes_of_one_data_set_share_its_images():
    for dataset in ("imagenet_lt", "inat18", "places_lt"):
        assert len({study(r).dataset for r in RECIPES if r.startswith(dataset)}) == 1


def test_a_recipe_is_a_file_to_read_from_top_to_bottom():
    for recipe in RECIPES:
        assert len(Path(FOLDER / f"{recipe}.yaml").read_text().splitlines()) < 150
