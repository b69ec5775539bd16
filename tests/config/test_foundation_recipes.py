"""The recipes for foundation backbones are complete and agree with docs/reference/foundation-recipes.md."""

from __future__ import annotations

import math
import re
from functools import cache
from typing import Any

import pytest
from timm.models import get_pretrained_cfg

from mem.config import Study, TimmNetwork
from mem.config.load import load_study
from mem.config.tuners import AdaptFormerTuner
from mem.runs.dag import study_runs
from tests.config.test_recipes import check_comment, check_cost, check_rows, check_settings, flat, top_comment, without
from tests.conftest import REPOSITORY

FOLDER = REPOSITORY / "config" / "foundation"
PAGE = REPOSITORY / "docs" / "reference" / "foundation-recipes.md"
COMMIT = REPOSITORY / "tests" / "runs" / "hub_commit.yaml"
"""A commit for the weights of the recipes, which name none."""
STUDIES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
RECIPES = [name for name in STUDIES if name.startswith(("lift_", "dinov"))]
"""Recipes with published settings. The other studies in the folder are this project's own."""
LIFT = {"lift_imagenet_lt": (1000, 78.3), "lift_places_lt": (365, 52.2), "lift_inat18": (8142, 80.4)}
LIFT |= {"lift_cifar100_lt": (100, 81.7)}
"""Number of classes, and the published accuracy with five crops (Shi et al. 2024, tables 1 to 4), by recipe."""
NAMES = (
    "study",
    "description",
    "compute.*",
    "heads.*.method",
    "backbone.name",
    "dataset.name",
    "dataset.source",
    "dataset.root",
    "dataset.*_list",
    "finetune.*.name",
    "initial.revision",
)
"""Settings that are names, paths or resources rather than hyperparameters."""


@cache
def study(recipe: str) -> Study:
    return load_study([FOLDER / f"{recipe}.yaml", COMMIT])


@cache
def settings(recipe: str) -> dict[str, Any]:
    return without(flat(study(recipe)), NAMES)


def test_every_row_of_the_page_applies_to_a_recipe():
    check_rows(PAGE.read_text(), {recipe: settings(recipe) for recipe in RECIPES})


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_setting_of_a_recipe_is_on_the_page_with_its_value(recipe):
    check_settings(recipe, settings(recipe), PAGE.read_text())


@pytest.mark.stage  # counting the cost of a full-size model takes seconds
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_states_its_command_and_its_cost(recipe):
    check_cost(recipe, study(recipe), FOLDER, PAGE)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_says_that_it_was_not_run_and_what_differs(recipe):
    check_comment(recipe, study(recipe), FOLDER)


@pytest.mark.parametrize("recipe", LIFT)
def test_lift_has_its_published_accuracy_and_the_width_of_its_formula(recipe):
    classes, accuracy = LIFT[recipe]
    row = re.search(rf"^\| \[{recipe}\].*$", PAGE.read_text(), re.MULTILINE)
    assert row and row[0].endswith(f"| {accuracy} |")
    assert f"finetuned {accuracy}" in top_comment(recipe, FOLDER)
    assert str(accuracy) in study(recipe).description
    finetune = study(recipe).finetune
    assert finetune is not None and isinstance(finetune.tuner, AdaptFormerTuner)
    assert finetune.tuner.width == 2 ** math.floor(math.log2(classes / (2 * 12)))
    assert finetune.lr == 0.01


@pytest.mark.parametrize("recipe", [name for name in STUDIES if not name.startswith("fashion")])
def test_weights_backbone_and_normalisation_are_those_of_timm(recipe):
    planned = study(recipe)
    assert isinstance(planned.backbone, TimmNetwork) and planned.initial is not None
    prefix, _, repository = (planned.initial.weights or "").partition(":")
    tag = repository.rsplit(".", 1)[1]
    published = get_pretrained_cfg(f"{planned.backbone.model}.{tag}")
    assert published is not None and (prefix, repository) == ("hf-hub", published.hf_hub_id)
    assert planned.dataset.pixel_mean == published.mean  # type: ignore[union-attr]
    assert planned.dataset.pixel_std == published.std  # type: ignore[union-attr]


def test_recipes_of_one_data_set_share_its_conversion(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for dataset in ("imagenet_lt", "places_lt"):  # the text features of inat18 require names of the classes
        paper = load_study([REPOSITORY / "config" / "paper" / f"{dataset}_vit_base.yaml"])
        keys = {study_runs(study(r))[0].key for r in RECIPES if r.endswith(dataset)}
        assert keys == {study_runs(paper)[0].key}


def test_the_study_for_an_own_folder_has_about_fifteen_lines():
    lines = (FOLDER / "own_folder.yaml").read_text().splitlines()
    assert 10 <= len([line for line in lines if not line.startswith("#")]) <= 20
