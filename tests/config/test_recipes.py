"""The recipes for the paper's tables are complete and agree with docs/reference/recipes.md."""

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
from mem.plan.text import estimate_study
from mem.runs.dag import study_runs
from tests.conftest import REPOSITORY

FOLDER = REPOSITORY / "config" / "paper"
PAGE = REPOSITORY / "docs" / "reference" / "recipes.md"
TABLE1_SECTION = "## Recipes for table 1"
"""Heading after which the page describes `config/table1`; see `test_table1_recipes.py`."""
PAPER = yaml.safe_load((REPOSITORY / "mem" / "report" / "paper.yaml").read_text())
RECIPES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
PAPERS = [recipe for recipe in RECIPES if not recipe.endswith("_layer_decay")]
"""Recipes that the report compares with the paper; the others are variants of them."""
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
"""Settings that are names, paths or resources rather than hyperparameters."""


@cache
def study(recipe: str) -> Study:
    return load_study([FOLDER / f"{recipe}.yaml"])


@cache
def settings(recipe: str) -> dict[str, Any]:
    """Return the hyperparameters of a recipe by their dotted names."""
    return without(flat(study(recipe)), NO_HYPERPARAMETERS)


def without(values: dict[str, Any], patterns: tuple[str, ...]) -> dict[str, Any]:
    """Return the settings whose names match none of the patterns."""
    return {key: value for key, value in values.items() if not any(fnmatch(key, pattern) for pattern in patterns)}


def flat(study: Study) -> dict[str, Any]:
    """Return the settings that a study specifies by their dotted names."""
    found: dict[str, Any] = {}

    def walk(value: Any, name: str) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(inner, f"{name}.{key}" if name else key)
        else:
            found[name] = value

    walk(study.model_dump(mode="json", exclude_unset=True), "")
    return found


def documented(text: str) -> list[tuple[str, Any, list[str]]]:
    """Return the rows of a page or section: a settings pattern, the expected value, and recipe patterns."""
    lines = re.findall(r"^\| `([^`]+)` \| ([^|]+) \| ([^|]+) \| [^|]+ \|$", text, re.MULTILINE)
    return [(name, yaml.safe_load(value), [p.strip() for p in recipes.split(",")]) for name, value, recipes in lines]


def section(*, table1: bool = False) -> str:
    """Return the part of the page on the recipes in `config/paper` or `config/table1`."""
    return PAGE.read_text().partition(TABLE1_SECTION)[2 if table1 else 0]


def matches(patterns: list[str], recipe: str) -> bool:
    return any(fnmatch(recipe, pattern) for pattern in patterns)


def top_comment(recipe: str, folder: Path = FOLDER) -> str:
    """Return the comment at the top of a recipe."""
    lines = (folder / f"{recipe}.yaml").read_text().splitlines()
    return "\n".join(takewhile(lambda line: line.startswith("#"), lines))


def test_every_data_set_and_backbone_of_the_tables_has_a_recipe():
    assert len(SCORES) == 3 * 4 * 5
    assert {recipe for recipe, _, _ in SCORES} | {row["recipe"] for row in PAPER["table5"]} == set(PAPERS)


@pytest.mark.parametrize(("recipe", "method", "score"), SCORES)
def test_a_recipe_has_the_heads_of_its_table_and_states_their_expected_accuracy(recipe, method, score):
    assert study(recipe).heads[method].method == method
    assert f"{method} {score:.2f}" in top_comment(recipe)
    assert f"{method} {score:.2f}" in study(recipe).description


@pytest.mark.parametrize("row", PAPER["table5"], ids=lambda row: f"{row['recipe']} {row['head']}")
def test_recipes_of_table_5_have_its_heads_and_state_their_expected_accuracy(row):
    assert row["head"] in study(row["recipe"]).heads
    assert f"{row['shots'][3]}" in top_comment(row["recipe"])


def check_rows(text: str, recipes: dict[str, dict[str, Any]]) -> None:
    """Check that every pattern of every row of a page applies to a recipe with the setting of the row.

    Args:
        text: The page.
        recipes: Hyperparameters of each recipe.
    """
    rows = documented(text)
    assert len(rows) > 100
    for name, _, patterns in rows:
        for pattern in patterns:
            used = [recipe for recipe in recipes if fnmatch(recipe, pattern)]
            assert used, f"the row for {name} names {pattern}, which is no recipe"
            assert any(fnmatch(key, name) for r in used for key in recipes[r]), f"{name} is not a setting of {used}"


def test_every_row_of_the_page_applies_to_a_recipe():
    check_rows(section(), {recipe: settings(recipe) for recipe in RECIPES})


def check_settings(recipe: str, values: dict[str, Any], text: str) -> None:
    """Check that a page contains every setting of a recipe, with its value."""
    lines = [(name, value) for name, value, recipes in documented(text) if matches(recipes, recipe)]
    for key, value in values.items():
        matching = [expected for name, expected in lines if fnmatch(key, name)]
        assert matching, f"{recipe}: {key} = {value} is in no row of the page"
        assert all(expected == value for expected in matching), f"{recipe}: {key} is {value}, the page has {matching}"


def check_cost(recipe: str, recipe_study: Study, folder: Path, page: Path = PAGE) -> None:
    """Check the command and the GPU-hours that the comment at the top of a recipe and a page state."""
    comment = top_comment(recipe, folder)
    _, estimates = estimate_study(recipe_study, {}, Rates(core_gflops=50))
    gpu_hours = sum(e.hours * e.gpus for e in estimates)
    stated = re.search(
        rf"snakemake --profile slurm --config study={folder.name}/{recipe} +GPU-hours: ([\d.]+)\n", comment
    )
    assert stated, comment
    assert float(stated[1]) == pytest.approx(gpu_hours, rel=0.02, abs=0.06)
    row = re.search(rf"^\| \[{recipe}\]\(\S+\) \| [^|]+ \| ([\d.]+) \|", page.read_text(), re.MULTILINE)
    assert row, f"{recipe} is missing from the table of recipes in {page.name}"
    assert row[1] == stated[1]


def check_comment(recipe: str, recipe_study: Study, folder: Path) -> None:
    """Check that a recipe says that it was not run and what differs, and that its study has the name of the file."""
    comment = top_comment(recipe, folder)
    assert "# This project has not run this recipe." in comment
    assert "# Differs from the published code" in comment
    assert recipe_study.study == recipe


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_setting_of_a_recipe_is_on_the_page_with_its_value(recipe):
    check_settings(recipe, settings(recipe), section())


@pytest.mark.stage  # counting the cost of a full-size model takes seconds
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_states_its_command_its_cost_and_its_deviations(recipe):
    check_cost(recipe, study(recipe), FOLDER)
    assert "# Differs from the paper" in top_comment(recipe)


@pytest.mark.parametrize("recipe", RECIPES)
def test_tau_is_selected_on_val_or_on_held_out_training_images(recipe):
    assert study(recipe).dataset.has_val() == (study(recipe).selection is None)
    assert len(study(recipe).heads["tau"].taus) == 21  # type: ignore[union-attr]


def test_recipes_of_one_data_set_share_its_conversion(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for dataset in ("imagenet_lt", "inat18", "places_lt"):
        recipes = [r for r in RECIPES if r.startswith(dataset)]
        assert len({next(iter(study_runs(study(r)))).key for r in recipes}) == 1
        assert len(recipes) == 4


def test_a_recipe_from_scratch_exists_with_the_layer_decay_of_finetuning():
    finetuning = study("imagenet_lt_vit_base").finetune
    assert finetuning is not None
    for epochs in (100, 500, 1000):
        without, decayed = (study(f"table5_scratch_{epochs}{ending}").finetune for ending in ("", "_layer_decay"))
        assert without is not None and decayed is not None
        assert (without.layer_decay, decayed.layer_decay) == (1.0, finetuning.layer_decay)
        assert decayed == without.model_copy(update={"layer_decay": finetuning.layer_decay})


def test_a_recipe_has_fewer_than_150_lines():
    for recipe in RECIPES:
        assert len(Path(FOLDER / f"{recipe}.yaml").read_text().splitlines()) < 150
