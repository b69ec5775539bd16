"""Objectives of finetuning, compared with values and gradients of official code (see golden/README.md)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mem.objectives.base import FinetuningLoss
from mem.objectives.build import build_objective
from mem.objectives.lade import Lade
from mem.objectives.reweighting import inverse_effective_numbers
from tests.objectives.golden import recipe
from tests.objectives.numpy_objectives import Samples
from tests.objectives.settings import finetune, targets

GOLDEN = Path(__file__).parent / "golden"
TORCH = json.loads((GOLDEN / "losses.json").read_text())
TENSORFLOW = json.loads((GOLDEN / "class_balanced.json").read_text())
COUNTS = np.array(recipe.COUNTS)
HARD = Samples(np.array(recipe.LABELS))
MIXED = Samples(HARD.labels, np.array(recipe.partner_labels()), recipe.shares())
LDAM = {"name": "ldam", "max_margin": recipe.LDAM["max_margin"]}
REWEIGHTED = {**LDAM, "reweight_from_epoch": 50, "beta": recipe.LDAM["beta"]}
TOLERANCE = {"rtol": 3e-6, "atol": 3e-6}
"""The constants of classes are float32, and the official LADE adds 1e-9 to the prior."""


def loss_of(objective: Any, label_smoothing: float = 0.0, cosine_scale: float | None = None) -> FinetuningLoss:
    return build_objective(finetune(objective, label_smoothing, cosine_scale), COUNTS)


def assert_official(value: torch.Tensor, logits: torch.Tensor, recorded: dict[str, Any], scale: float = 1.0) -> None:
    """Compare a loss and its gradient. `scale` is the ratio of our logits to the inputs of the official code."""
    (gradient,) = torch.autograd.grad(value, logits)
    assert float(value.detach()) == pytest.approx(recorded["value"], rel=3e-6)
    np.testing.assert_allclose(scale * gradient.numpy(), np.array(recorded["gradient"]), **TOLERANCE)


@pytest.mark.parametrize(
    ("name", "objective", "smoothing", "samples"),
    [
        ("balanced_softmax", "balanced_softmax", 0.0, HARD),
        ("lade", {"name": "lade", **recipe.LADE}, 0.0, HARD),
        ("logit_adjustment_mixed", {"name": "logit_adjustment", "tau": recipe.TAU}, recipe.SMOOTHING, MIXED),
        ("balanced_bce", {"name": "balanced_bce", "tau": 1}, recipe.SMOOTHING, HARD),
        ("balanced_bce_mixed", {"name": "balanced_bce", "tau": 1}, recipe.SMOOTHING, MIXED),
        *((f"focal_{gamma}", {"name": "focal", "gamma": gamma}, 0.0, HARD) for gamma in recipe.GAMMAS),
    ],
)
def test_the_mean_equals_the_official_loss(name, objective, smoothing, samples):
    logits = torch.from_numpy(recipe.logits()).requires_grad_()
    assert_official(loss_of(objective, smoothing)(logits, targets(samples)).mean(), logits, TORCH["losses"][name])


def test_the_regulariser_of_lade_equals_the_official_one():
    loss = loss_of({"name": "lade", **recipe.LADE})
    assert isinstance(loss, Lade)
    logits = torch.from_numpy(recipe.logits()).requires_grad_()
    assert_official(loss.regulariser(logits, targets(HARD)), logits, TORCH["losses"]["lade_regulariser"])


def test_ldam_equals_the_official_loss():
    logits = torch.from_numpy(recipe.SCALE * recipe.cosines()).requires_grad_()
    value = loss_of({**LDAM, "reweight_from_epoch": None}, cosine_scale=recipe.SCALE)(logits, targets(HARD)).mean()
    assert_official(value, logits, TORCH["losses"]["ldam"], recipe.SCALE)


def test_reweighted_ldam_divided_by_the_weights_of_the_batch_equals_the_official_loss():
    logits = torch.from_numpy(recipe.SCALE * recipe.cosines()).requires_grad_()
    loss = loss_of(REWEIGHTED, cosine_scale=recipe.SCALE)
    weights = loss.get_buffer("weights").double()
    value = loss(logits, targets(HARD, epoch=50)).sum() / weights[torch.tensor(recipe.LABELS)].sum()
    assert_official(value, logits, TORCH["losses"]["ldam_reweighted"], recipe.SCALE)
    official = np.array(TORCH["losses"]["ldam_weights"])
    np.testing.assert_allclose(weights / weights.sum(), official / official.sum(), rtol=1e-6)
    assert float(weights @ torch.from_numpy(COUNTS / COUNTS.sum())) == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize("name", TENSORFLOW["losses"])
def test_class_balanced_losses_equal_the_official_ones(name):
    """The official bias of the classifier starts at -log(C - 1), which this project adds to the logits in the loss."""
    kind, _, gamma = name.partition("_")
    start = 0.0 if kind == "softmax" else np.log(len(COUNTS) - 1)
    logits = torch.from_numpy(recipe.logits() + start).requires_grad_()
    objective = {"name": "class_balanced", "beta": recipe.BETA, "loss": kind, "gamma": float(gamma) if gamma else None}
    assert_official(loss_of(objective)(logits, targets(HARD)).mean(), logits, TENSORFLOW["losses"][name])


def test_class_balanced_weights_equal_the_official_ones():
    weights = inverse_effective_numbers(COUNTS, recipe.BETA)
    np.testing.assert_allclose(weights / weights.mean(), TENSORFLOW["weights"], rtol=1e-9)
    objective = {"name": "class_balanced", "beta": recipe.BETA, "loss": "softmax"}
    np.testing.assert_allclose(loss_of(objective).get_buffer("weights"), TENSORFLOW["weights"], rtol=1e-6)
