"""Names of MLflow runs consist of what distinguishes runs in a study."""

from __future__ import annotations

from typing import Any

import pytest

from mem.tracking.run_names import earlier_run_name, run_name

MEM = {"method": "mem", "classifier": "frozen", "classifier_from": "ce", "weight": "softmax"}


def start(stage: str, settings: dict[str, Any], **labels: Any) -> dict[str, Any]:
    return {
        "stage": stage, "key": "abcdef", "dataset": "digits_lt", "backbone": "vit_base", "settings": settings,
        "labels": {"order": 0, "seed": 0} | labels,
    }  # fmt: skip


def head(settings: dict[str, Any], variant: str, **labels: Any) -> str:
    return run_name(start("train_head", {"head": settings}, variant=variant, **labels))


@pytest.mark.parametrize(
    ("settings", "variant", "name"),
    [
        (MEM, "mem", "mem (frozen CE, softmax) · vit_base · seed 0"),
        (MEM | {"classifier": "fresh"}, "a", "a (new classifier, softmax) · vit_base · seed 0"),
        (MEM | {"classifier": "trained", "classifier_from": "x"}, "m", "m (trained x, softmax) · vit_base · seed 0"),
        (MEM | {"input": "tokens"}, "t", "t (frozen CE, softmax, tokens) · vit_base · seed 0"),
        ({"method": "crt", "training": {"epochs": 30}}, "crt", "crt · vit_base · seed 0"),
        ({"method": "crt", "training": {}, "classifier_from": "crt"}, "again", "again (from cRT) · vit_base · seed 0"),
        ({"method": "tau", "taus": [0.5, 1.0]}, "tau", "tau (chosen on val) · vit_base · seed 0"),
        ({"method": "tau", "taus": [0.5]}, "tau", "tau (0.5) · vit_base · seed 0"),
        ({"method": "logit_adjustment", "taus": [1]}, "la", "la (tau 1) · vit_base · seed 0"),
        ({"method": "ce", "training": None}, "ce", "ce · vit_base · seed 0"),
    ],
)  # fmt: skip
def test_the_name_of_a_head_contains_the_settings_that_distinguish_its_method(settings, variant, name):
    assert head(settings, variant) == name


@pytest.mark.parametrize(
    ("event", "name"),
    [
        (start("pretrain", {"pretrain": {"epochs": 120.0}}), "pretrain (MAE, 120 epochs) · vit_base · seed 0"),
        (
            start("finetune", {"finetune": {"epochs": 5, "objective": {"name": "balanced_softmax"}}}, finetuning="b"),
            "finetune b (balanced softmax, 5 epochs) · vit_base · seed 0",
        ),
        (start("features", {}, crops="five crops at 248"), "features (five crops at 248) · vit_base · seed 0"),
        (start("features", {}, order=2, branch="select"), "features · vit_base · select · order 2 · seed 0"),
        (start("convert", {}) | {"labels": {"order": 0}}, "convert · digits_lt"),
        (start("report", {}) | {"labels": {"study": "digits_lt"}}, "report · digits_lt"),
    ],
)
def test_the_name_of_a_stage_contains_its_backbone_or_what_it_belongs_to(event, name):
    assert run_name(event) == name


@pytest.mark.parametrize(
    "settings", [{}, {"head": None}, {"head": {"method": "mem"}}, {"head": {"method": "tau", "taus": ["x"]}}]
)
def test_a_log_with_other_settings_has_a_name(settings):
    assert run_name(start("train_head", settings, variant="x" * 400)).startswith("xxx")
    assert len(run_name(start("train_head", settings, variant="x" * 400))) == 250


def test_names_of_earlier_versions_are_recognised():
    assert earlier_run_name(start("train_head", {}, variant="mem")) == "mem o0 s0 abcd"
    assert earlier_run_name(start("finetune", {}, finetuning="lade")) == "finetune lade o0 s0 abcd"
