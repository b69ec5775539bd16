"""Costs of a backbone with experts, compared with those of separate networks."""

from __future__ import annotations

import pytest

from mem import config
from mem.config import Study
from mem.models.backbones import build
from mem.plan import disk, model_costs
from mem.plan.hours import Rates
from mem.plan.image_counts import ImageCounts
from mem.plan.model_cost import ClassifierCost
from mem.plan.text import estimate_study

CLASSES = 10
COUNTS = ImageCounts(100, 20, 50, CLASSES, 1000.0, "test")


def study_with(values: dict, experts: dict | None, heads: dict | None = None) -> Study:
    values["features"]["tokens"] = False
    changes = {"finetune": values["finetune"] | {"experts": experts}, "heads": heads or {"ce": None}}
    return Study.model_validate(values | changes)


def cost_of(values: dict, experts: dict | None) -> ClassifierCost:
    study = study_with(values, experts)
    return model_costs.classifier_cost(study, study.finetune, CLASSES)


def test_whole_networks_cost_as_much_as_separate_networks(mini_values):
    one, three = cost_of(mini_values, None), cost_of(mini_values, {"number": 3})
    assert three.cost.parameters == 3 * one.cost.parameters
    assert three.cost.forward_flops == pytest.approx(3 * one.cost.forward_flops)
    assert three.cost.training_flops == pytest.approx(3 * one.cost.training_flops)
    assert (three.width, three.tokens, three.experts) == (3 * one.width, 0, 3)


def test_shared_layers_are_counted_once(mini_values):
    one, two, three = (
        cost_of(mini_values, experts)
        for experts in (None, {"number": 2, "own_from": "blocks.1"}, {"number": 3, "own_from": "blocks.1"})
    )
    for name in ("parameters", "forward_flops", "training_flops"):
        owned = getattr(three.cost, name) - getattr(two.cost, name)
        assert owned > 0
        shared = getattr(two.cost, name) - 2 * owned
        assert shared + owned == pytest.approx(getattr(one.cost, name), rel=1e-6)
    assert two.cost.activation_bytes < three.cost.activation_bytes < 3 * one.cost.activation_bytes
    backbone = study_with(mini_values, None).backbone
    model = build(backbone, CLASSES, experts=config.Experts(number=3, own_from="blocks.1"))
    assert three.cost.parameters == sum(p.numel() for p in model.parameters())


def test_heads_and_features_have_the_width_of_all_experts(mini_values):
    experts = {"number": 3, "own_from": "blocks.1"}
    heads = {"ce": None, "all": {"method": "ensemble"}, "crt": mini_values["heads"]["crt"]}
    study = study_with(mini_values, experts, heads)
    cost = model_costs.classifier_cost(study, study.finetune, CLASSES)
    width = 3 * mini_values["backbone"]["width"]
    for name, parameters in (
        ("ce", (width + 3) * CLASSES),
        ("all", (width + 3) * CLASSES),
        ("crt", (width + 1) * CLASSES),
    ):
        assert model_costs.head_cost(study, study.heads[name], CLASSES, cost).parameters == parameters
    stored = disk.features(study, COUNTS, cost.width, cost.tokens, online=False).final_bytes
    single = disk.features(study, COUNTS, cost.width // 3, cost.tokens, online=False).final_bytes
    images = COUNTS.total + mini_values["features"]["views"] * COUNTS.train
    assert stored - single == pytest.approx(4 * (2 * width / 3) * (images + CLASSES))


def test_a_router_costs_what_its_decisions_cost(mini_values):
    training = mini_values["heads"]["crt"]["training"]
    router = {
        "method": "ride_router",
        "top_logits": 5,
        "hidden_width": 4,
        "positive_weight": 100.0,
        "threshold": 0.5,
        "training": training,
    }
    study = study_with(mini_values, {"number": 3, "own_from": "blocks.1"}, {"ce": None, "router": router})
    cost = model_costs.head_cost(
        study, study.heads["router"], CLASSES, model_costs.classifier_cost(study, study.finetune, CLASSES)
    )
    width = mini_values["backbone"]["width"]
    assert cost.trained_parameters == 2 * (width + 1) * 4 + (5 + 4 + 1)
    # Per multiplication of matrices and sample: all experts' logits, two hidden layers, two outputs.
    assert cost.forward_flops == 2 * (3 * width * CLASSES + 2 * width * 4 + 2 * (5 + 4))
    assert cost.training_flops > cost.forward_flops


def test_adapt_passes_two_views_of_the_test_images_through_the_backbone(mini_values):
    augmentation = {"crop_scale": [0.2, 1.0], "flip": False}
    adapt = {"epochs": 2, "global_batch": 48, "lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 5.0e-4}
    values = mini_values | {"adapt": adapt | {"stop_below": 0.05, "augmentation": augmentation}}
    study = study_with(values, {"number": 3}, {"ce": None, "sade": {"method": "sade_aggregation"}})
    found = next(e for e in estimate_study(study, {}, Rates(core_gflops=50))[1] if e.run.stage == "adapt")
    assert (found.steps, found.images) == (9, 2 * 9 * 48)  # 2 epochs of 200 images
