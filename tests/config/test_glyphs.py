"""Settings of `source: glyphs` that contradict each other, and class orders without `cut`."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from mem.config import Study
from tests.data.miniatures import glyphs, settings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"largest": None}, "largest: is required for `profile: exponential`"),
        ({"largest": None, "imbalance": None}, "largest and imbalance: are required for `profile: exponential`"),
        ({"profile": "natural"}, "largest and imbalance: are only for `profile: exponential`"),
        ({"profile": "imagenet_lt", "largest": None}, "imbalance: is only for `profile: exponential`"),
        ({"val_families": 0}, "val_families and val_per_class: set both to 0, or neither"),
        ({"val_per_class": 0, "val_minimum": None}, "val_families and val_per_class: set both to 0, or neither"),
        ({"val_minimum": 5}, "val_minimum (5) must not exceed val_per_class (4)"),
        ({"holdout": {"share": 0.1, "seed": 0}}, "`holdout` is for datasets without a val split"),
        ({"classes": 1}, "greater than or equal to 2"),
    ],
)
def test_contradictory_settings_are_refused(changes, message):
    with pytest.raises(ValidationError) as error:
        settings(glyphs(Path("/fonts"), **changes))
    assert message in str(error.value)


def test_a_dataset_has_val_if_it_has_val_families():
    assert settings(glyphs(Path("/fonts"))).has_val() is True
    without = {"val_families": 0, "val_per_class": 0, "val_minimum": None}
    assert settings(glyphs(Path("/fonts"), **without)).has_val() is False
    holdout = {"holdout": {"share": 0.1, "seed": 0}}
    assert settings(glyphs(Path("/fonts"), **without, **holdout)).has_val() is True


def test_every_class_order_is_a_cut(mini_values):
    study = Study.model_validate({**mini_values, "dataset": glyphs(Path("/fonts")), "orders": [0, 3, 5]})
    assert study.orders == (0, 3, 5)
