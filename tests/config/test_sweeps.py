"""Sweeps: variants of a head for all combinations of the given values."""

from __future__ import annotations

from pathlib import Path

import pytest

from mem.config import Mem, Study
from mem.config.load import load_study
from tests.config.studies import error_message, write_study


def load_with_sweeps(tmp_path: Path, values: dict, **sweeps: dict):
    return load_study([write_study(tmp_path, {**values, "sweeps": sweeps})])


def test_a_sweep_adds_a_head_for_every_combination(tmp_path, mini_values):
    over = {"xi": [10, 30], "classifier": ["frozen", "trained"], "training.sampler": ["instance"]}
    study = load_with_sweeps(tmp_path, mini_values, grid={"of": "mem", "over": over})
    variants = {name: head for name, head in study.heads.items() if name not in mini_values["heads"]}
    assert list(variants) == [f"mem.xi{xi}.{choice}.instance" for xi in (10, 30) for choice in ("frozen", "trained")]
    for name, head in variants.items():
        assert isinstance(head, Mem)
        assert f"mem.xi{head.xi:g}.{head.classifier}.{head.training.sampler}" == name
        assert head.width == mini_values["heads"]["mem"]["width"]


def test_a_variant_equal_to_another_head_is_omitted(tmp_path, mini_values):
    xi = mini_values["heads"]["mem"]["xi"]
    one, other = ({"of": "mem", "over": {"xi": [xi, 33]}} for _ in range(2))
    # The default of `partition_seed` is 0, so this variant equals the head.
    seeds = {"of": "mem", "over": {"partition_seed": [0]}}
    study = load_with_sweeps(tmp_path, mini_values, one=one, other=other, seeds=seeds)
    assert [name for name in study.heads if name.startswith("mem.")] == ["mem.xi33"]


def test_a_dumped_study_with_sweeps_validates_to_the_same_study(tmp_path, mini_values):
    study = load_with_sweeps(tmp_path, mini_values, xi={"of": "mem", "over": {"xi": [11, 12]}})
    assert Study.model_validate(study.model_dump(mode="json")) == study


@pytest.mark.parametrize(
    ("sweep", "expected"),
    [
        ({"of": "mme", "over": {"xi": [1]}}, "sweeps.s.of: this study has no head `mme`; its heads are ["),
        ({"of": "mem", "over": {"xii": [1]}}, "unknown key `heads.mem.xii1.xii`; did you mean `xi`?"),
        ({"of": "mem", "over": {"xi": [0]}}, "`heads.mem.xi0.xi` is 0: input should be greater than 0"),
        ({"of": "mem", "over": {"xi": []}}, "expected one or more distinct values, got []"),
        ({"of": "mem", "over": {"xi": [5, 5]}}, "expected one or more distinct values, got [5"),
        ({"of": "mem", "over": {}}, "over: expected at least one setting"),
        (
            {"of": "mem", "over": {"trainin.sampler": ["sqrt"]}},
            "sweeps.s.over.trainin.sampler: head `mem` has no section `trainin`",
        ),
        ({"of": "ce", "over": {"method": ["crt"]}}, "heads.ce.crt"),
        ({"of": "mem"}, "`sweeps.s.over` is missing"),
    ],
)
def test_an_invalid_sweep_is_reported(tmp_path, mini_values, sweep, expected):
    assert expected in error_message(tmp_path, {**mini_values, "sweeps": {"s": sweep}})
