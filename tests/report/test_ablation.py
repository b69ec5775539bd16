"""Heads that differ in one setting, found from their settings."""

from __future__ import annotations

import yaml
from pydantic import TypeAdapter

from mem.config import Head
from mem.report.ablation import ablations
from tests.conftest import REPOSITORY

MEM = yaml.safe_load((REPOSITORY / "tests" / "mini.yaml").read_text())["heads"]["mem"] | {"method": "mem"}


def heads(**changes: dict) -> dict[str, Head]:
    adapter = TypeAdapter(Head)
    return {name: adapter.validate_python({**MEM, **change}) for name, change in changes.items()}


def test_a_sweep_over_numbers_is_ascending_and_holds_the_base_once():
    found = ablations(heads(mem={}, **{"mem.xi20": {}, "mem.xi100": {"xi": 100.0}, "mem.xi5": {"xi": 5.0}}))
    assert [(one.setting, one.variants, one.values) for one in found] == [
        ("xi", ("mem.xi5", "mem", "mem.xi100"), (5.0, 20.0, 100.0))
    ]
    assert found[0].numeric


def test_words_keep_the_studys_order_and_settings_of_the_training_count():
    slower = {"training": {**MEM["training"], "lr": 1.0e-4}}
    found = {one.setting: one for one in ablations(heads(mem={}, added={"weight": "additive"}, slow=slower))}
    assert found["weight"].values == ("free", "additive")
    assert not found["weight"].numeric
    assert found["training.lr"].variants == ("slow", "mem")


def test_heads_that_differ_in_two_settings_are_no_ablation():
    assert ablations(heads(mem={}, other={"xi": 30.0, "width": 32})) == []


def test_of_a_grid_the_row_with_the_base_is_taken():
    changes = {f"x{x}w{w}": {"xi": float(x), "width": w} for x in (10, 20, 30) for w in (16, 32)}
    found = {one.setting: one for one in ablations(heads(mem={}, **changes))}
    assert found["xi"].variants == ("x10w16", "mem", "x30w16")
    assert found["width"].variants == ("mem", "x20w32")
