"""The recipes for table 1 are complete and agree with docs/reference/recipes.md."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import pytest

from mem.config import Study
from mem.config.load import load_study
from mem.report.paper_format import paper_numbers
from mem.report.results_store import TABLE1_METHODS
from mem.runs.dag import study_runs
from tests.config.test_recipes import (
    PAGE,
    check_comment,
    check_cost,
    check_rows,
    check_settings,
    flat,
    section,
    top_comment,
    without,
)
from tests.conftest import REPOSITORY

FOLDER = REPOSITORY / "config" / "table1"
RECIPES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
NAMES = (
    "study",
    "description",
    "compute.*",
    "heads.*.method",
    "heads.*.finetuning",
    "backbone.name",
    "dataset.name",
    "dataset.source",
    "dataset.root",
    "dataset.*_list",
)
"""Settings that are names, paths or resources rather than hyperparameters. The name of an objective is none of them."""
PAPER = paper_numbers()
EXPECTED = {
    f"{dataset}_{method}": (cited | PAPER["table1_other"].get(dataset, {}))[
        PAPER["table1_names"].get(dataset, {}).get(method, method)
    ]
    for dataset, cited in PAPER["table1"].items()
    for method in TABLE1_METHODS
    if f"{dataset}_{method}" in RECIPES
}
"""Accuracies in table 1 of the paper or, for LiVT, of its publication, by recipe."""


@cache
def study(recipe: str) -> Study:
    return load_study([FOLDER / f"{recipe}.yaml"])


@cache
def settings(recipe: str) -> dict[str, Any]:
    """Return the hyperparameters of a recipe: of variants of finetuning, only those that differ from `finetune`."""
    found = without(flat(study(recipe)), NAMES)
    missing = object()
    return {
        key: value
        for key, value in found.items()
        if not key.startswith("finetune_variants.") or value != found.get("finetune." + key.split(".", 2)[2], missing)
    }


def test_every_row_of_the_section_applies_to_a_recipe():
    check_rows(section(table1=True), {recipe: settings(recipe) for recipe in RECIPES})


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_setting_of_a_recipe_is_in_the_section_with_its_value(recipe):
    check_settings(recipe, settings(recipe), section(table1=True))


@pytest.mark.stage  # counting the cost of a full-size model takes seconds
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_states_its_command_and_its_cost(recipe):
    check_cost(recipe, study(recipe), FOLDER)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_says_that_it_was_not_run_and_what_differs(recipe):
    check_comment(recipe, study(recipe), FOLDER)


@pytest.mark.parametrize("recipe", EXPECTED)
def test_a_recipe_states_the_expected_accuracy_of_the_publication(recipe):
    comment, row = top_comment(recipe, FOLDER), re.search(rf"^\| \[{recipe}\].*$", PAGE.read_text(), re.MULTILINE)
    assert row
    for shots in filter(None, EXPECTED[recipe]):
        assert f"{shots}" in comment
    assert f"{EXPECTED[recipe][3]}" in row[0]


@pytest.mark.parametrize("recipe", RECIPES)
def test_nothing_is_chosen_on_test(recipe):
    # Without a val split, heads with candidate values require `selection`; these recipes have none.
    chosen = [name for name, head in study(recipe).heads.items() if getattr(head, "taus", None)]
    assert study(recipe).dataset.has_val() or study(recipe).selection is not None or not chosen


def test_recipes_share_the_conversion_of_the_recipes_of_tables_2_to_4(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for dataset, other in (("imagenet_lt", "vit_base"), ("inat18", "vit_base"), ("places_lt", "vit_base")):
        paper = load_study([REPOSITORY / "config" / "paper" / f"{dataset}_{other}.yaml"])
        key = study_runs(paper)[0].key
        assert {study_runs(study(r))[0].key for r in RECIPES if r.startswith(dataset)} == {key}


def test_methods_on_cifar_differ_only_in_their_method():
    variants = study("cifar100_lt_losses").finetune_variants
    base = study("cifar100_lt_losses").finetune
    assert base is not None
    method = {"objective", "cosine_scale", "mixup", "mix_batch"}
    for variant in variants.values():
        changed = {name for name in type(base).model_fields if getattr(base, name) != getattr(variant, name)}
        assert changed and changed <= method
