"""Parameter groups and learning rates, compared with the official code (see golden/README.md)."""

from __future__ import annotations

import json

import pytest
import torch

from mem.config import Backbone, ConvMae, VisionTransformer
from mem.config.load import load_study
from mem.jobs.backbone_training import lr_schedule
from mem.models.backbones import build
from mem.models.parameter_groups import decay_groups, layer_decay_groups
from mem.train.schedules import warmup_cosine, warmup_steps
from tests.conftest import REPOSITORY

RECORDED = json.loads((REPOSITORY / "tests" / "models" / "golden" / "parameter_groups.json").read_text())
VIT_B = VisionTransformer(
    name="v", kind="vit", image_size=224, patch_size=16, width=768, depth=12, heads=12, center_crop=0.875
)
CONVMAE_B = ConvMae(
    name="c", kind="convmae", image_size=224, patch_sizes=(4, 2, 2), widths=(256, 384, 768), depths=(2, 2, 11),
    heads=12, center_crop=0.875,
)  # fmt: skip


@pytest.mark.parametrize(("backbone", "name"), [(VIT_B, "vit_base"), (CONVMAE_B, "convmae_base")])
def test_scale_and_weight_decay_of_every_parameter_equal_the_official_ones(backbone: Backbone, name: str):
    model = build(backbone, 1000, drop_path=0.1)
    names = {id(parameter): name for name, parameter in model.backbone.named_parameters()}
    groups = layer_decay_groups(model, RECORDED["weight_decay"], RECORDED["layer_decay"])
    found = {names[id(p)]: [g["lr_scale"], g["weight_decay"]] for g in groups for p in g["params"]}
    assert found == RECORDED[name]


def test_the_learning_rate_equals_the_official_one_at_every_recorded_step():
    recorded = RECORDED["schedule"]
    lr = warmup_cosine(*(recorded[name] for name in ("lr", "min_lr", "warmup_epochs", "epochs", "steps_per_epoch")))
    for step, expected in recorded["points"]:
        assert lr(step) == pytest.approx(expected, rel=1e-12), step


def test_a_factor_changes_only_the_learning_rate_of_the_linear_classifier():
    with torch.device("meta"):
        model = build(VIT_B.model_copy(update={"depth": 2}), 10)
    names = {id(parameter): name for name, parameter in model.backbone.named_parameters()}
    scales = [
        {names[id(p)]: group["lr_scale"] for group in groups for p in group["params"]}
        for groups in (
            layer_decay_groups(model, 0.1, 0.5),
            layer_decay_groups(model, 0.1, 0.5, classifier_lr_factor=100),
        )
    ]
    assert {name for name in scales[0] if scales[0][name] != scales[1][name]} == {"head.weight", "head.bias"}
    assert (scales[0]["head.weight"], scales[1]["head.weight"], scales[1]["fc_norm.weight"]) == (1, 100, 1)


def test_liu_et_al_train_the_classifier_with_a_hundred_times_the_rate_of_the_features():
    study = load_study([REPOSITORY / "config" / "paper" / "places_lt_resnet152.yaml"])
    assert study.finetune is not None and study.backbone.kind == "timm"
    with torch.device("meta"):
        model = build(study.backbone.model_copy(update={"model": "resnet18"}), 365)
    settings = study.finetune
    groups = layer_decay_groups(
        model, settings.weight_decay, settings.layer_decay, decay_all=True,
        classifier_lr_factor=settings.classifier_lr_factor,
    )  # fmt: skip
    names = {id(parameter): name for name, parameter in model.backbone.named_parameters()}
    schedule = lr_schedule(settings, steps_per_epoch=100)
    for step, decay in ((0, 1), (999, 1), (1000, 0.1), (1999, 0.1), (2000, 0.01), (2999, 0.01)):
        rates = {names[id(p)]: schedule(step) * group["lr_scale"] for group in groups for p in group["params"]}
        classifier = {name: rate for name, rate in rates.items() if name.startswith("fc.")}
        assert list(classifier.values()) == pytest.approx([0.1 * decay] * 2)
        rest = [rate for name, rate in rates.items() if name not in classifier]
        assert rest == pytest.approx([0.001 * decay] * len(rest))
        assert "neck.weight" in rates and "neck.weight" not in classifier


@pytest.mark.parametrize(("images", "batch"), [(100, 10), (37, 12), (62_500, 128), (99, 7)])
def test_steps_of_the_learning_rate_are_at_the_ends_of_epochs(images, batch):
    lr = warmup_steps(2.0, 0.0, 0.0, (3, 0.1), images / batch)
    for step in range(0, 10 * images // batch, max(1, images // batch // 50)):
        assert lr(step) == pytest.approx(2 * 0.1 ** (step * batch // (3 * images))), step


def test_steps_follow_a_warm_up_and_end_at_the_smallest_rate():
    lr = warmup_steps(1.0, 0.05, 2.0, (4, 0.1), 10)
    assert [lr(step) for step in (0, 10, 20, 39, 40, 79, 80)] == pytest.approx([0, 0.5, 1, 1, 0.1, 0.1, 0.05])


@pytest.mark.parametrize(("images", "batch"), [(100, 10), (37, 12), (62_500, 128), (99, 7)])
def test_steps_can_have_different_distances(images, batch):
    lr = warmup_steps(2.0, 0.0, 0.0, ((6, 8), 0.1), images / batch)
    for step in range(0, 10 * images // batch, max(1, images // batch // 50)):
        decays = (step * batch >= 6 * images) + (step * batch >= 8 * images)
        assert lr(step) == pytest.approx(2 * 0.1**decays), step


def test_with_decay_all_every_parameter_decays():
    with torch.device("meta"):
        model = build(VIT_B.model_copy(update={"depth": 2}), 10)
    for groups in (
        decay_groups(model, 0.1, decay_all=True),
        layer_decay_groups(model, 0.1, 0.5, decay_all=True),
    ):
        assert {group["weight_decay"] for group in groups} == {0.1}
        assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
