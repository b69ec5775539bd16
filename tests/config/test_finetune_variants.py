"""Objectives and variants of finetuning in a study."""

from __future__ import annotations

import copy

import pytest
from pydantic import ValidationError

from mem.config import BalancedSoftmaxObjective, Experts, Study
from mem.errors import UserError
from mem.models.weights.check import check_backbone


def study(mini_values: dict, variants: dict | None = None, heads: dict | None = None, **finetune) -> Study:
    """Return the mini study with variants of finetuning, further heads and changed settings of `finetune`."""
    values = copy.deepcopy(mini_values)
    values["finetune"] |= finetune
    values["heads"] |= heads or {}
    return Study.model_validate(values | ({"finetune_variants": variants} if variants is not None else {}))


USES = {"other": {"method": "finetuned", "finetuning": "other"}}
"""A head that uses the variant `other`."""


def test_a_variant_has_the_settings_of_finetune_and_its_own(mini_values):
    own = {"objective": "balanced_softmax", "augmentation": {"flip": True}}
    variant = study(mini_values, {"other": own}, USES).finetune_variants["other"]
    base = study(mini_values).finetune
    assert base is not None
    assert variant.objective == BalancedSoftmaxObjective(name="balanced_softmax")
    assert variant.augmentation == base.augmentation.model_copy(update={"flip": True})
    assert variant.model_copy(update={"objective": base.objective, "augmentation": base.augmentation}) == base


def test_a_variant_replaces_the_objective_as_a_whole(mini_values):
    lade = {"name": "lade", "regulariser_weight": 0.1, "quadratic_weight": 0.5}
    heads = {"ce": {"method": "finetuned"}, **USES}
    changed = study(mini_values, {"other": {"objective": {"name": "logit_adjustment", "tau": 1.5}}}, heads,
                    objective=lade, label_smoothing=0.0)  # fmt: skip
    assert changed.finetune_variants["other"].objective.model_dump() == {"name": "logit_adjustment", "tau": 1.5}


def test_a_variant_replaces_the_experts_as_a_whole(mini_values):
    mini_values["features"]["tokens"] = False
    mini_values["heads"] = {"ce": None}
    heads = {"other": {"method": "ce", "finetuning": "other"}}
    base = {"number": 3, "own_from": "blocks.1"}
    other = study(mini_values, {"other": {"experts": {"number": 2}}}, heads, experts=base).finetune_variants["other"]
    assert other.experts == Experts(number=2, own_from=None)
    plain = study(mini_values, {"other": {"experts": None}}, heads, experts=base).finetune_variants["other"]
    assert plain.experts is None


def test_a_study_that_was_loaded_can_be_loaded_again(mini_values):
    first = study(mini_values, {"other": {"objective": {"name": "logit_adjustment", "tau": 1.5}}}, USES)
    assert Study.model_validate(first.model_dump()) == first


@pytest.mark.parametrize(
    ("finetune", "message"),
    [
        ({"objective": "lade"}, "regulariser_weight"),
        ({"objective": "nothing"}, "nothing"),
        ({"objective": {"name": "focal", "gamma": 2}}, "`focal` is not defined for soft targets.*label_smoothing to 0"),
        (
            {"objective": {"name": "focal", "gamma": 2}, "label_smoothing": 0.0, "mixup": 0.2},
            "`focal` is not defined for soft targets.*set mixup to 0",
        ),
        (
            {
                "objective": {"name": "ldam", "max_margin": 0.5, "reweight_from_epoch": None},
                "label_smoothing": 0.0,
            },
            "`ldam` requires a cosine classifier; set cosine_scale",
        ),
        (
            {
                "objective": {"name": "ldam", "max_margin": 0.5, "reweight_from_epoch": 6, "beta": 0.99},
                "label_smoothing": 0.0,
                "cosine_scale": 30,
            },
            r"reweight_from_epoch \(6\) must be smaller than epochs \(6\)",
        ),
        (
            {
                "objective": {"name": "ldam", "max_margin": 0.5, "reweight_from_epoch": 3, "beta": 0.99},
                "label_smoothing": 0.0,
                "cosine_scale": 30,
                "sampler": "sqrt",
            },
            "deferred re-weighting of `ldam` is defined for the sampler `instance`",
        ),
        (
            {
                "objective": {"name": "ace", "largest_counts": [100], "suppression_weight": 0.001},
                "label_smoothing": 0.0,
                "experts": {"number": 2},
                "sampler": "sqrt",
            },
            "sampler `sqrt`: the factors .* `ace` are defined for the sampler `instance`.*set sampler to instance",
        ),
        (
            {"objective": {"name": "ldam", "max_margin": 0.5, "reweight_from_epoch": 3}, "cosine_scale": 30},
            "beta: is required with `reweight_from_epoch`",
        ),
        (
            {"objective": {"name": "class_balanced", "beta": 0.99, "loss": "focal"}, "label_smoothing": 0.0},
            "gamma: is required for `loss: focal`",
        ),
        ({"objective": "balanced_softmax"}, "heads.ce.method: `ce` is a classifier .* use `method: finetuned`"),
    ],
)
def test_an_objective_that_does_not_fit_is_rejected(mini_values, finetune, message):
    with pytest.raises(ValidationError, match=message):
        study(mini_values, **finetune)


OTHER = {"other": {"objective": "balanced_softmax"}}


@pytest.mark.parametrize(
    ("variants", "heads", "message"),
    [
        ({}, USES, "heads.other.finetuning: this study has no variant of finetuning `other`.*: none"),
        ({"other": None}, USES, "finetune_variants.other: expected the settings that differ"),
        (
            {"select": OTHER["other"]},
            {"s": {"method": "finetuned", "finetuning": "select"}},
            "finetune_variants.select: the name is reserved",
        ),
        (OTHER, {}, "finetune_variants.other: no head uses this variant"),
        ({"other": {}}, {"other": {"method": "ce", "finetuning": "other"}}, "has the same settings as finetune"),
        (
            {**OTHER, "same": OTHER["other"]},
            {**USES, "same": {"method": "finetuned", "finetuning": "same"}},
            "finetune_variants.same: has the same settings as finetune_variants.other",
        ),
        (OTHER, {"other": {"method": "ce", "finetuning": "other"}}, "use `method: finetuned`"),
        (OTHER, {**USES, "plain": {"method": "finetuned"}}, "heads.plain.method: .* use `method: ce`"),
        (
            OTHER,
            {"tau": {"method": "tau", "taus": [1.0]}, **USES, "warm": {
                "method": "crt", "classifier_from": "ce", "finetuning": "other", "training": {
                    "epochs": 1, "global_batch": 32, "optimizer": "sgd", "lr": 0.1, "weight_decay": 0,
                    "sampler": "instance"}}},
            "heads.warm.classifier_from: the head must use the same finetuning as the head it starts from",
        ),
    ],
)  # fmt: skip
def test_heads_and_variants_that_do_not_fit_are_rejected(mini_values, variants, heads, message):
    with pytest.raises(ValidationError, match=message):
        study(mini_values, variants, heads)


def test_variants_require_finetune(mini_values):
    values = copy.deepcopy(mini_values) | {"finetune": None, "finetune_variants": OTHER}
    with pytest.raises(ValidationError, match="finetune_variants: requires `finetune`") as error:
        Study.model_validate(values)
    assert error.value.error_count() == 1


def test_a_variant_with_another_optimizer_does_not_inherit_the_settings_of_the_optimizer(mini_values):
    variant = {"optimizer": "sgd", "momentum": 0.9}
    heads = {"other": {"method": "ce", "finetuning": "other"}}
    sgd = study(mini_values, {"other": variant}, heads).finetune_variants["other"]
    assert (sgd.optimizer, sgd.momentum, sgd.betas) == ("sgd", 0.9, None)


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        ({"drop_path": 0.1}, "drop_path"),
        ({"experts": {"number": 2, "own_from": "layer3"}}, "vgg11_bn cannot be divided into shared and owned layers"),
    ],
)
def test_the_networks_of_all_variants_are_checked(mini_values, variant, message):
    network = {"name": "c", "kind": "timm", "model": "vgg11_bn", "image_size": 32, "norm_batch": 64, "center_crop": 1.0}
    values = copy.deepcopy(mini_values) | {
        "backbone": network,
        "pretrain": None,
        "finetune_variants": {"other": variant},
        "heads": {"ce": None, "other": {"method": "ce", "finetuning": "other"}},
    }
    values["finetune"] |= {"drop_path": 0.0}
    values["features"] |= {"tokens": False}
    with pytest.raises(UserError, match=message):
        check_backbone(Study.model_validate(values))


def test_the_method_of_a_finetuned_classifier_contains_its_objective(mini_values):
    changed = study(mini_values, OTHER, USES)
    assert changed.method_of(changed.heads["other"]) == "finetuned_balanced_softmax"
    assert changed.method_of(changed.heads["ce"]) == "ce"
