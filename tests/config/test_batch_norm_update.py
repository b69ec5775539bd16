"""The setting `features.batch_norm`: invalid combinations, and run keys."""

from __future__ import annotations

import pytest

from mem.config.load import load_study
from mem.runs.dag import study_runs
from tests.config.studies import error_message, write_study

UPDATE = {"sampler": "class_balanced", "epochs": 1, "batch": 64}
CNN = {"name": "cnn", "kind": "timm", "model": "resnet10t", "image_size": 32, "center_crop": 1.0, "norm_batch": 32}


@pytest.fixture
def values(mini_values) -> dict:
    """A valid study with a CNN whose BatchNorm statistics are updated."""
    mini_values |= {"pretrain": None, "backbone": CNN}
    mini_values["finetune"]["drop_path"] = 0.0
    mini_values["features"]["batch_norm"] = UPDATE
    return mini_values


def test_a_backbone_without_batch_norm_is_refused(tmp_path, values):
    values["backbone"] = {**CNN, "model": "convnext_atto", "norm_batch": None}
    message = error_message(tmp_path, values)
    assert "features.batch_norm: updates the statistics of a finetuned backbone with BatchNorm layers, but" in message
    assert "this backbone has none; remove batch_norm" in message


def test_a_backbone_that_is_not_finetuned_is_refused(tmp_path, values):
    values |= {"finetune": None, "backbone": {**CNN, "norm_batch": None}, "heads": {"ncm": None}}
    assert "nothing is finetuned (finetune: null); remove batch_norm" in error_message(tmp_path, values)


def test_the_batch_must_consist_of_complete_groups(tmp_path, values):
    values["features"]["batch_norm"] = {**UPDATE, "batch": 48}
    assert "features.batch_norm.batch (48) must be a multiple of backbone.norm_batch (32)" in error_message(
        tmp_path, values
    )


def test_the_update_requires_an_augmentation(tmp_path, values):
    values["features"] |= {"views": 0, "augmentation": None}
    assert "batch_norm requires `augmentation`" in error_message(tmp_path, values)


def test_the_update_changes_only_the_keys_of_the_features_and_of_the_runs_that_use_them(tmp_path, values):
    def keys() -> dict[str, set[str]]:
        runs = study_runs(load_study([write_study(tmp_path, values)]))
        return {
            stage: {run.key for run in runs if run.stage == stage} for stage in ("finetune", "features", "evaluate")
        }

    updated = keys()
    values["features"]["batch_norm"] = None
    plain = keys()
    assert updated["finetune"] == plain["finetune"]
    assert not updated["features"] & plain["features"]
    assert not updated["evaluate"] & plain["evaluate"]
    values["features"] |= {"views": 0, "batch_norm": UPDATE}
    first = keys()
    values["features"]["augmentation"] = {"crop_scale": [0.2, 1.0], "flip": False}
    assert not first["features"] & keys()["features"]  # the augmentation has an effect without views
