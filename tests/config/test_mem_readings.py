"""Settings of the MEM head: combinations that are rejected, settings without an effect, keys, and duplicates."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from mem.config import Head, Mem, Study
from mem.config.duplicates import computation
from mem.config.load import load_study
from mem.runs.dag import study_runs
from mem.runs.keys import keyed
from mem.runs.run_config import read_config, write_configs
from tests.config.studies import error_message, write_study
from tests.heads.mem_heads import mem_settings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classifier_from": None}, "classifier_from: is required with `classifier: frozen`"),
        ({"phases": "regularisation_first", "reo_weight": 0}, "requires a reo_weight above 0"),
        ({"detach_norms": True, "reo_weight": 0}, "detach_norms: requires a reo_weight above 0"),
        ({"prior_in_loss": True}, "prior_in_loss: requires the sampler `instance`, not `class_balanced`"),
        ({"first_phase": 1.0}, "less than 1"),
        ({"temperature": 0.0}, "greater than 0"),
        ({"temperature": "trained"}, "learned"),
    ],
)
def test_an_invalid_combination_is_reported(changes, message):
    with pytest.raises(ValidationError, match=message):
        mem_settings(**changes)


NEW: dict[str, Any] = {
    "pool": "norm", "reo_scale": "xi_squared", "phases": "regularisation_first", "fusion_init": "default",
    "norms": "raw", "detach_norms": True, "logits": "centred", "temperature": 0.5, "classifier_lr_scale": 10.0,
    "prior_in_loss": True,
}  # fmt: skip
PLAIN = {"input": "tokens", "classifier": "trained", "sampler": "instance"}


@pytest.mark.parametrize("name", NEW)
def test_a_new_setting_is_in_the_key_only_if_it_differs_from_its_default(name):
    default = keyed(mem_settings(**PLAIN), "train_head")
    changed = keyed(mem_settings(**PLAIN, **{name: NEW[name]}), "train_head")
    assert not NEW.keys() & default.keys()
    assert changed == {**default, name: NEW[name]}


@pytest.mark.parametrize(
    "changes",
    [
        {"pool": "norm"},
        {"first_phase": 0.3},
        {"classifier_lr_scale": 3.0},
        {"partition_seed": 4},
    ],
)
def test_a_setting_without_an_effect_is_not_in_the_key(changes):
    assert keyed(mem_settings(**changes), "train_head") == keyed(mem_settings(), "train_head")
    assert computation(mem_settings(**changes)) == computation(mem_settings())


def test_detached_norms_have_no_effect_in_two_phases():
    phases = {"phases": "regularisation_first"}
    assert computation(mem_settings(detach_norms=True, **phases)) == computation(mem_settings(**phases))
    assert computation(mem_settings(detach_norms=True)) != computation(mem_settings())


@pytest.fixture
def values(mini_values) -> dict[str, Any]:
    return copy.deepcopy(mini_values)


def load(folder: Path, values: dict[str, Any]) -> Study:
    return load_study([write_study(folder, values)])


def test_a_fresh_classifier_depends_on_no_other_head_and_has_its_own_key(tmp_path, values):
    mem = values["heads"]["mem"]
    without_start = {name: value for name, value in mem.items() if name != "classifier_from"}
    values["heads"]["mem_fresh"] = {**without_start, "method": "mem", "classifier": "fresh"}
    runs = {run.labels["variant"]: run for run in study_runs(load(tmp_path, values)) if run.stage == "train_head"}
    assert set(runs["mem_fresh"].inputs) == {"features"}
    assert runs["mem_fresh"].key != runs["mem"].key
    assert "classifier_from" not in runs["mem_fresh"].site(load(tmp_path, values))["settings"].get("head", {})


def test_a_sweep_over_new_settings_leaves_out_variants_that_compute_the_same(tmp_path, values):
    values["sweeps"] = {
        "weight": {"of": "mem", "over": {"weight": ["free", "residual", "softmax", "mixture"]}},
        "start": {"of": "mem", "over": {"classifier": ["trained", "fresh"], "classifier_from": ["ce", "crt"]}},
        "temperature": {"of": "mem", "over": {"temperature": [1, 0.5, "learned"]}},
        "phases": {"of": "mem", "over": {"phases": ["joint", "regularisation_first"]}},
        "raw": {"of": "mem", "over": {"norms": ["raw"], "detach_norms": [True]}},
    }
    values["heads"]["mem"] = {**without_weight_decay(values["heads"]["mem"]), "weight": "additive"}
    variants = [name for name in load(tmp_path, values).heads if name.startswith("mem.")]
    assert variants == [
        "mem.free", "mem.softmax", "mem.mixture", "mem.trained.crt", "mem.fresh.ce",
        "mem.temperature0.5", "mem.learned", "mem.regularisation_first", "mem.raw.detach_norms1",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, ""),
        ({"partition_seed": 3}, ""),
        ({"weight": "residual"}, " (without weight decay, `free` and `residual` weights learn the same)"),
    ],
)
def test_two_heads_that_compute_the_same_are_rejected(tmp_path, values, changes, reason):
    values["heads"]["mem"] = without_weight_decay(values["heads"]["mem"])
    values["heads"]["again"] = {**values["heads"]["mem"], "method": "mem", **changes}
    message = error_message(tmp_path, values)
    assert f"heads.again: computes the same as heads.mem{reason}; remove one of them" in message


def without_weight_decay(mem: dict[str, Any]) -> dict[str, Any]:
    return {**mem, "weight": "free", "training": {**mem["training"], "weight_decay": 0}}


def test_with_weight_decay_free_and_residual_weights_are_two_readings(tmp_path, values):
    mem = without_weight_decay(values["heads"]["mem"])
    mem["training"]["weight_decay"] = 0.05
    values["heads"] |= {"mem": mem, "residual": {**mem, "method": "mem", "weight": "residual"}}
    assert {"mem", "residual"} <= load(tmp_path, values).heads.keys()


def test_a_study_with_only_one_of_free_and_residual_is_valid(tmp_path, values):
    values["heads"]["mem"]["weight"] = "residual"
    head = load(tmp_path, values).heads["mem"]
    assert isinstance(head, Mem)
    assert keyed(head, "train_head")["weight"] == "residual"


def test_the_stage_reads_the_settings_that_the_study_specifies(tmp_path, values):
    mem = {**values["heads"]["mem"], "method": "mem"}
    values["heads"] |= {
        "fresh": {**mem, "classifier": "fresh", "temperature": "learned", "first_phase": 0.2},
        "phases": {**mem, "phases": "regularisation_first", "first_phase": 0.2, "detach_norms": True},
    }
    study = load(tmp_path, values)
    runs = study_runs(study)
    write_configs(runs, study, tmp_path)
    for run in runs:
        if run.stage == "train_head" and run.labels["variant"] in ("fresh", "phases"):
            config = read_config(tmp_path / run.folder / "config.yaml", "train_head")
            assert config.union("head", Head) == study.heads[str(run.labels["variant"])]
