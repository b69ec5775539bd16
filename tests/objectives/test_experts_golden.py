"""Objectives of several experts, compared with values and gradients of official code (see golden/README.md)."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from mem.objectives.build import build_objective
from mem.objectives.ride import Ride
from tests.objectives.golden import recipe
from tests.objectives.settings import finetune, targets
from tests.objectives.test_golden import COUNTS, GOLDEN, HARD, assert_official

RECORDED = json.loads((GOLDEN / "experts.json").read_text())
LOSSES = RECORDED["losses"]
RIDE = {"name": "ride", **recipe.RIDE, "reweight_from_epoch": 80, "beta": 0.9999}


def loss_of(objective: dict[str, Any]):
    scale = recipe.RIDE_SCALE if objective["name"] == "ride" else None
    return build_objective(finetune(objective, cosine_scale=scale, experts=recipe.EXPERTS), COUNTS)


def expert_logits() -> torch.Tensor:
    return torch.from_numpy(recipe.expert_logits()).requires_grad_()


@pytest.mark.parametrize(
    ("name", "objective"),
    [("ride", RIDE), ("sade", {"name": "sade", **recipe.SADE}), ("ncl", {"name": "ncl", **recipe.NCL})],
)
def test_the_mean_equals_the_official_loss(name, objective):
    logits = expert_logits()
    assert_official(loss_of(objective)(logits, targets(HARD, epoch=79.99)).mean(), logits, LOSSES[name])


def test_the_official_loss_of_ncl_differs_only_by_its_constant():
    exact, official = LOSSES["ncl"], LOSSES["ncl_with_constant"]
    assert exact["value"] == pytest.approx(official["value"], rel=1e-6)
    np.testing.assert_allclose(exact["gradient"], official["gradient"], atol=1e-5)


def test_the_divergence_of_ride_after_reweighting_equals_the_official_one():
    logits, loss = expert_logits(), loss_of(RIDE)
    assert isinstance(loss, Ride)
    value = -recipe.RIDE["diversity_weight"] * loss.divergence(logits, 80).mean()
    assert_official(value, logits, LOSSES["ride_reweighted_divergence"])
    official = np.array(RECORDED["ride_temperatures"]) * recipe.RIDE["temperature"]
    np.testing.assert_allclose(loss.get_buffer("temperatures"), official, rtol=1e-6)


def test_reweighted_ride_divided_by_the_weights_of_the_batch_equals_the_official_loss():
    logits, loss = expert_logits(), loss_of(RIDE)
    assert isinstance(loss, Ride)
    weights = loss.ldam.get_buffer("weights").double()[torch.tensor(recipe.LABELS)]
    divergence = recipe.RIDE["diversity_weight"] * loss.divergence(logits, 80)
    margins = loss(logits, targets(HARD, epoch=80)) + divergence
    value = margins.sum() / weights.sum() - divergence.mean()
    assert_official(value, logits, LOSSES["ride_reweighted"])
