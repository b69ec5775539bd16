"""Parameter groups and learning rates, compared with the official code (see golden/README.md)."""

from __future__ import annotations

import json

import pytest
import torch

from mem.config import Backbone, ConvMae, VisionTransformer
from mem.models.backbones import build
from mem.models.parameter_groups import decay_groups, layer_decay_groups
from mem.train.schedules import warmup_cosine
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


def test_with_decay_all_every_parameter_decays():
    with torch.device("meta"):
        model = build(VIT_B.model_copy(update={"depth": 2}), 10)
    for groups in (
        decay_groups(model, 0.1, decay_all=True),
        layer_decay_groups(model, 0.1, 0.5, decay_all=True),
    ):
        assert {group["weight_decay"] for group in groups} == {0.1}
        assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
