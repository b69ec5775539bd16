"""Ablations are found by comparing the settings of a study's heads."""

from __future__ import annotations

import yaml
from pydantic import TypeAdapter

from mem.config import Head
from mem.report.ablation import find_ablations
from tests.conftest import REPOSITORY

MEM = yaml.safe_load((REPOSITORY / "tests" / "mini.yaml").read_text())["heads"]["mem"] | {"method": "mem"}


def heads(**changes: dict) -> dict[str, Head]:
    adapter = TypeAdapter(Head)
    return {name: adapter.validate_python({**MEM, **change}) for name, change in changes.items()}


def test_a_sweep_over_numbers_is_ascending_and_contains_the_base_head_once():
    ablations = find_ablations(heads(mem={}, **{"mem.xi20": {}, "mem.xi100": {"xi": 100.0}, "mem.xi5": {"xi": 5.0}}))
    assert [(ablation.setting, ablation.variants, ablation.values) for ablation in ablations] == [
        ("xi", ("mem.xi5", "mem", "mem.xi100"), (5.0, 20.0, 100.0))
    ]
    assert ablations[0].numeric


def test_words_keep_the_order_of_the_study_and_settings_of_the_training_count():
    slower = {"training": {**MEM["training"], "lr": 1.0e-4}}
    ablations = find_ablations(heads(mem={}, added={"weight": "additive"}, slow=slower))
    by_setting = {ablation.setting: ablation for ablation in ablations}
    assert by_setting["weight"].values == ("free", "additive")
    assert not by_setting["weight"].numeric
    assert by_setting["training.lr"].variants == ("slow", "mem")


def test_heads_that_differ_in_two_settings_are_not_an_ablation():
    assert find_ablations(heads(mem={}, other={"xi": 30.0, "width": 32})) == []


def test_in_a_grid_the_ablation_contains_the_base_head():
    grid = {f"x{x}w{w}": {"xi": float(x), "width": w} for x in (10, 20, 30) for w in (16, 32)}
    by_setting = {ablation.setting: ablation for ablation in find_ablations(heads(mem={}, **grid))}
    assert by_setting["xi"].variants == ("x10w16", "mem", "x30w16")
    assert by_setting["width"].variants == ("mem", "x20w32")
