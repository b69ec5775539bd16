"""Studies with experts: what is rejected when a study is loaded, and the keys of runs."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from mem.config import Experts
from mem.config.load import load_study
from mem.errors import UserError
from mem.runs.dag import study_runs
from tests.config.studies import error_message, write_study
from tests.conftest import REPOSITORY

CONVMAE: dict[str, Any] = {
    "name": "convmae_mini",
    "kind": "convmae",
    "image_size": 8,
    "patch_sizes": [2, 2, 1],
    "widths": [8, 8, 16],
    "depths": [1, 1, 3],
    "heads": 2,
    "center_crop": 1.0,
}
RESNET: dict[str, Any] = {
    "name": "resnet_mini",
    "kind": "timm",
    "model": "resnet18",
    "image_size": 32,
    "norm_batch": 32,
    "center_crop": 1.0,
}

NCL: dict[str, Any] = {"name": "ncl", "hard_classes": 3, "mutual_weight": 0.6}
CONTRAST: dict[str, Any] = {
    "queue": 448, "width": 8, "temperature": 0.1, "momentum": 0.9, "projector_norm": False,
}  # fmt: skip


def with_experts(values: dict, backbone: dict | None = None, **experts: Any) -> dict:
    """Add experts to the values of a study without tokens."""
    values["finetune"]["experts"] = {"number": 3, **experts}
    values["features"]["tokens"] = False
    values["heads"] = {"ce": None}
    if backbone is not None:
        values |= {"backbone": backbone, "pretrain": values["pretrain"] if backbone["kind"] != "timm" else None}
    return values


def test_the_layers_of_every_kind_of_backbone_can_be_shared(tmp_path, mini_values):
    load_study([write_study(tmp_path, with_experts(mini_values, own_from="blocks.1"))])
    load_study([write_study(tmp_path, with_experts(mini_values, CONVMAE, own_from="blocks3.2"))])
    load_study([write_study(tmp_path, with_experts(mini_values, RESNET, own_from="layer3", width_factor=0.75))])


def test_pretrained_experts_with_the_same_classifier_need_something_that_makes_them_different(tmp_path, mini_values):
    values = with_experts(mini_values, own_from="blocks.1")
    values["finetune"] |= {"initial_classifier": "class_means", "drop_path": 0.0}
    assert "finetune.initial_classifier: all experts start from the same" in error_message(tmp_path, values)
    ncl = values["finetune"] | {"objective": NCL, "label_smoothing": 0.0}
    contrast = {"objective": NCL | {"contrast": CONTRAST, "contrast_weight": 1.0}}
    finetuned = {"heads": {"finetuned": None}}
    without_projectors = values | {"finetune": ncl} | finetuned
    assert "finetune.initial_classifier: all experts start from the same" in error_message(tmp_path, without_projectors)
    different = [
        {"finetune": values["finetune"] | {"drop_path": 0.1}},
        {
            "finetune": values["finetune"] | {"objective": {"name": "sade", "tau": 2.0}, "label_smoothing": 0.0},
            "heads": {"finetuned": None},
        },
        {"finetune": ncl | contrast, **finetuned},
        {"finetune": values["finetune"] | {"initial_classifier": None}},
        {"pretrain": None},  # each expert has random layers and the class means of its own features
    ]
    for changes in different:
        load_study([write_study(tmp_path, values | changes)])


@pytest.mark.parametrize(
    ("backbone", "experts", "message"),
    [
        (
            None,
            {"own_from": "layer3"},
            "finetune.experts.own_from: a backbone of kind vit cannot be divided at `layer3`; use one of: blocks.0, "
            "blocks.1. To share no layers, remove own_from",
        ),
        (
            CONVMAE,
            {"own_from": "blocks.1"},
            "finetune.experts.own_from: a backbone of kind convmae cannot be divided at `blocks.1`; use one of: "
            "blocks3.0, blocks3.1, blocks3.2.",
        ),
        (
            None,
            {"own_from": "blocks.1", "width_factor": 0.75},
            "finetune.experts.width_factor: is available for ResNets only, but backbone.kind is vit",
        ),
        (RESNET, {"width_factor": 0.75}, "width_factor: applies to the layers that each expert owns, but own_from"),
        (RESNET, {"number": 1}, "`finetune.experts.number` is 1: "),
    ],
)  # fmt: skip
def test_unsuitable_experts_are_rejected_with_one_message(tmp_path, mini_values, backbone, experts, message):
    found = error_message(tmp_path, with_experts(mini_values, backbone, **experts))
    assert message in found and found.count("study.yaml:") <= 1


def test_experts_of_a_custom_backbone_are_rejected_because_it_cannot_be_trained(tmp_path, mini_values):
    module = {"name": "m", "kind": "module", "module": "m.py:network", "image_size": 8, "center_crop": 1.0}
    message = error_message(tmp_path, with_experts(mini_values, module, own_from="blocks.1"))
    assert "backbone.kind `module` cannot be trained; set pretrain and finetune to null" in message
    assert "own_from" not in message


def test_a_frozen_backbone_has_no_experts(tmp_path, mini_values):
    mini_values |= {"finetune": None, "finetune_variants": {"ride": {"experts": {"number": 3}}}}
    assert "finetune_variants: requires `finetune`" in error_message(tmp_path, mini_values)


def test_the_width_of_pretrained_layers_cannot_be_changed(tmp_path, mini_values):
    values = with_experts(mini_values, RESNET, own_from="layer3", width_factor=0.75)
    values["initial"] = {"file": "weights.pth"}
    assert "finetune.experts.width_factor: pretrained weights (initial) do not fit" in error_message(tmp_path, values)


def test_tokens_of_experts_are_rejected(tmp_path, mini_values):
    mini_values["finetune_variants"] = {"ride": {"experts": {"number": 3}}}
    mini_values["heads"] = {"ce": None, "ride": {"method": "ce", "finetuning": "ride"}}
    message = error_message(tmp_path, mini_values)
    assert (
        "features.tokens: must be false, because each expert has its own tokens and finetune_variants.ride" in message
    )


def test_only_a_study_with_experts_has_other_keys(tmp_path, mini_values):
    def keys(values: dict) -> dict[str, str]:
        return {run.stage: run.key for run in study_runs(load_study([write_study(tmp_path, values)]))}

    mini_values["features"]["tokens"] = False
    mini_values["heads"] = {"ce": None}
    before = keys(mini_values)
    mini_values["finetune"]["experts"] = None
    assert keys(mini_values) == before
    after = keys(with_experts(mini_values, own_from="blocks.1"))
    assert {s for s in before if before[s] != after[s]} == {"finetune", "features", "train_head", "evaluate", "report"}
    other = keys(with_experts(mini_values, own_from="blocks.0"))
    assert other["finetune"] != after["finetune"]


def test_the_settings_of_experts_are_a_section():
    assert Experts(number=2) == Experts(number=2, own_from=None, width_factor=None)
    with pytest.raises(ValidationError, match="own_from is not set"):
        Experts(number=2, width_factor=0.5)


def test_more_hard_classes_than_the_classes_that_a_study_states_are_found_when_it_is_loaded():
    study = REPOSITORY / "config" / "glyphs_experts.yaml"
    load_study([study], {"finetune_variants": {"ncl": {"objective": NCL | {"hard_classes": 100}}}})
    message = r"finetune_variants\.ncl\.objective\.hard_classes is 101, but the dataset has 100 classes"
    with pytest.raises(UserError, match=message):
        load_study([study], {"finetune_variants": {"ncl": {"objective": NCL | {"hard_classes": 101}}}})
