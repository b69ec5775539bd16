"""Training of experts as in ACE: gradients of the shared layers, and learning rates of the owned ones."""

from __future__ import annotations

import re

import pytest
import torch

from mem.config import Experts
from mem.models.backbones import build
from mem.models.backbones.experts import ExpertClassifier
from mem.models.parameter_groups import layer_decay_groups
from tests.models.test_experts import CLASSES, DIVIDABLE, images, model_of


def gradients(model: ExpertClassifier, expert: int) -> dict[str, torch.Tensor | None]:
    """Return the gradients from the logits of one expert."""
    model.zero_grad()
    logits = model.train()(images(), torch.ones(4, model.branches, dtype=torch.float64))
    logits[:, expert].square().sum().backward()
    return {name: p.grad for name, p in model.backbone.named_parameters()}


def reached(found: dict[str, torch.Tensor | None], prefix: str) -> bool:
    return any(g is not None and bool(g.any()) for name, g in found.items() if name.startswith(prefix))


@pytest.mark.parametrize("trained_by", ["all", "first"])
@pytest.mark.parametrize("kind", ["vit", "convmae", "resnet"])
def test_the_shared_layers_are_trained_by_all_experts_or_by_the_first(kind, trained_by):
    backbone, own_from = DIVIDABLE[kind]
    experts = Experts(number=3, own_from=own_from, shared_trained_by=trained_by)
    torch.manual_seed(0)
    model = build(backbone, CLASSES, experts=experts).double()
    assert isinstance(model, ExpertClassifier)
    for layer in model.classifiers:
        torch.nn.init.normal_(layer.weight)
    for expert in range(3):
        found = gradients(model, expert)
        assert reached(found, "shared.") == (expert == 0 or trained_by == "all")
        assert [reached(found, f"experts.{e}.") for e in range(3)] == [e == expert for e in range(3)]


def test_learning_rates_of_experts_have_factors_that_do_not_apply_to_shared_layers():
    model = model_of(*DIVIDABLE["vit"])
    names = {id(p): name for name, p in model.backbone.named_parameters()}
    scales = [
        {
            names[id(p)]: group["lr_scale"]
            for group in layer_decay_groups(model, 0.1, 0.5, **options)
            for p in group["params"]
        }
        for options in ({}, {"expert_lr_factors": (1.0, 0.5, 0.1)})
    ]
    assert scales[0].keys() == scales[1].keys() == set(names.values())
    for name, scale in scales[0].items():
        owner = re.match(r"experts\.(\d)\.", name)
        assert (owner is None) == name.startswith("shared.")
        factor = 1.0 if owner is None else (1.0, 0.5, 0.1)[int(owner[1])]
        assert scales[1][name] == pytest.approx(factor * scale), name


def test_experts_without_shared_layers_cannot_choose_who_trains_them():
    with pytest.raises(ValueError, match=re.escape("shared_trained_by: own_from is not set, so that experts share no")):
        Experts(number=3, shared_trained_by="first")
