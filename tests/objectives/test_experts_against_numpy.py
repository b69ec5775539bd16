"""Objectives of several experts, compared with NumPy in float64: values and gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mem.objectives.ace import owned_classes, owner_shares
from mem.objectives.build import build_objective
from mem.objectives.ncl import hard_classes
from mem.objectives.sade import reversed_by_rank
from tests.objectives import numpy_expert_objectives as reference
from tests.objectives.numpy_objectives import Samples, Values, gradient_of_mean
from tests.objectives.settings import finetune, targets
from tests.objectives.test_against_numpy import ROUNDING
from tests.objectives.test_against_numpy import batch as batch_of_one

SCALE = 10.0
SUBSETS = (100, 19)


@dataclass(frozen=True)
class Case:
    """An objective of experts and its NumPy version."""

    objective: dict[str, Any]
    numpy: Callable[[np.ndarray, np.ndarray], Values]
    """Function of the class counts and the logits that returns the NumPy version. The logits are for constants that
    have no gradient."""
    experts: tuple[int, ...] = (3,)
    classes: tuple[int, ...] = (1, 2, 6)
    epoch: float = 0.0


def ride(epoch: float, reweighted: bool) -> Case:
    def numpy(counts: np.ndarray, z: np.ndarray) -> Values:
        temperatures = reference.class_temperatures(counts, 1.5, 0.3) if reweighted else np.array([1.5])
        constants = {"margin": SCALE * 0.5, "beta": 0.999 if reweighted else None, "diversity": 0.4}
        return partial(reference.ride, counts=counts, mean=z.mean(axis=1), temperatures=temperatures, **constants)

    objective = {
        "name": "ride",
        "max_margin": 0.5,
        "reweight_from_epoch": 80,
        "beta": 0.999,
        "diversity_weight": 0.4,
        "temperature": 1.5,
        "temperature_prior_weight": 0.3,
    }
    return Case(objective, numpy, experts=(2, 3), epoch=epoch)


def bound(function: Callable[..., np.ndarray], **values: Any) -> Callable[[np.ndarray, np.ndarray], Values]:
    return lambda counts, _: partial(function, counts=counts, **values)


def ncl(hard: int, classes: tuple[int, ...], experts: tuple[int, ...] = (3,)) -> Case:
    numpy = bound(reference.ncl, hard=hard, weight=0.6)
    return Case({"name": "ncl", "hard_classes": hard, "mutual_weight": 0.6}, numpy, experts, classes)


CASES = {
    "ride": ride(79.9, reweighted=False),
    "ride reweighted": ride(80.0, reweighted=True),
    "sade": Case({"name": "sade", "tau": 2.0}, bound(reference.sade, tau=2.0)),
    "ncl": ncl(3, (3, 6), (2, 3)),
    "ncl label only": ncl(1, (1, 2, 6)),
    "ncl all classes": ncl(6, (6,)),
    "ace": Case(
        {"name": "ace", "largest_counts": SUBSETS, "suppression_weight": 0.2},
        bound(reference.ace, largest=SUBSETS, weight=0.2),
        classes=(6,),
    ),
}


def loss_of(name: str, experts: int, counts: np.ndarray):
    cosine_scale = SCALE if CASES[name].objective["name"] == "ride" else None
    return build_objective(finetune(CASES[name].objective, cosine_scale=cosine_scale, experts=experts), counts)


def batch(seed: int, experts: int, classes: int) -> tuple[np.ndarray, np.ndarray, Samples]:
    """Return counts, of which some are 0, logits, and labels. With 6 classes, all subsets of ACE differ."""
    counts, _, samples = batch_of_one(seed, classes, mixed=False)
    if classes == 6:
        counts[:3] = 500, 40, 3
        samples = Samples(np.random.default_rng(seed).integers(3, size=len(samples.labels)))
    return counts, np.random.default_rng(seed + 1).normal(size=(len(samples.labels), experts, classes)) * 2, samples


@pytest.mark.parametrize(
    ("name", "experts", "classes"),
    [(name, e, k) for name, case in CASES.items() for e in case.experts for k in case.classes],
)
@given(seed=st.integers(0, 10**6))
@settings(deadline=None, max_examples=5)
def test_values_and_gradients_equal_numpy(name, experts, classes, seed):
    counts, z, samples = batch(seed, experts, classes)
    logits = torch.from_numpy(z).requires_grad_()
    values = loss_of(name, experts, counts)(logits, targets(samples, CASES[name].epoch))
    expected = CASES[name].numpy(counts, z)
    np.testing.assert_allclose(values.detach().numpy(), expected(z, samples), **ROUNDING)
    values.mean().backward()
    assert logits.grad is not None
    np.testing.assert_allclose(logits.grad.numpy(), gradient_of_mean(expected, z, samples), **ROUNDING)


@pytest.mark.parametrize("name", CASES)
def test_the_order_of_experts_matters_only_where_experts_have_different_tasks(name):
    counts, z, samples = batch(3, 3, 6)
    loss = loss_of(name, 3, counts)
    values = [loss(torch.from_numpy(a), targets(samples, 80)).sum() for a in (z, z[:, ::-1].copy())]
    # NCL takes the hard classes from expert 1, unless they are the label alone or all classes.
    depends = name in ("sade", "ncl", "ace")
    assert torch.allclose(*values, rtol=1e-6) != depends


def test_the_divergence_of_equal_experts_is_zero():
    counts, z, samples = batch(0, 1, 6)
    equal = torch.from_numpy(np.repeat(z, 3, axis=1))
    margins = loss_of("ride", 3, counts).ldam.values(equal[:, 0], targets(samples))
    torch.testing.assert_close(loss_of("ride", 3, counts)(equal, targets(samples)), 3 * margins)


def test_hard_classes_are_the_label_and_the_largest_other_logits():
    logits = torch.tensor([[5.0, 4, 3, 2, 1], [1, 2, 3, 4, 5]])
    chosen = hard_classes(logits, torch.tensor([4, 4]), 3)
    assert chosen.int().tolist() == [[1, 1, 0, 0, 1], [0, 0, 1, 1, 1]]


def test_reversing_twice_returns_the_values_if_they_are_distinct():
    values = np.array([0.5, 0.1, 0.3, 0.05, 0.02, 0.03])
    assert reversed_by_rank(values).tolist() == [0.02, 0.05, 0.03, 0.1, 0.5, 0.3]
    assert reversed_by_rank(reversed_by_rank(values)).tolist() == values.tolist()


def test_rarer_classes_belong_to_more_experts_and_every_class_to_the_first():
    counts = np.array([500, 100, 20, 19, 0])
    assert owned_classes(counts, SUBSETS).astype(int).tolist() == [[1, 1, 1, 1, 1], [0, 1, 1, 1, 1], [0, 0, 0, 1, 1]]
    shares = owner_shares(counts, SUBSETS)
    np.testing.assert_allclose(shares.sum(axis=0), 1)
    assert shares[:, 0].tolist() == [1, 0, 0]
    assert shares[:, 1].tolist() == [0.5, 0.5, 0]


def test_predictions_of_ace_are_the_means_over_the_owners():
    counts, z, _ = batch(1, 3, 6)
    expected = np.stack(
        [z[:, [True, n <= SUBSETS[0], n <= SUBSETS[1]], k].mean(axis=1) for k, n in enumerate(counts)], axis=1
    )
    np.testing.assert_allclose(loss_of("ace", 3, counts).predictions(torch.from_numpy(z)), expected, rtol=1e-6)
    plain = loss_of("sade", 3, counts).predictions(torch.from_numpy(z))
    np.testing.assert_allclose(plain, z.mean(axis=1), rtol=1e-12)


def test_the_learning_rates_of_ace_are_proportional_to_the_images_of_its_experts():
    counts = np.array([500, 40, 3, 0, 17, 140])
    assert loss_of("ace", 3, counts).expert_lr_factors == pytest.approx((1, 60 / 700, 20 / 700))
    assert loss_of("sade", 3, counts).expert_lr_factors is None


def test_an_expert_of_ace_has_no_gradient_from_images_of_other_classes():
    counts, z, _ = batch(1, 3, 6)
    logits = torch.from_numpy(z[:1]).requires_grad_()
    loss_of("ace", 3, counts)(logits, targets(Samples(np.array([0])))).sum().backward()
    assert logits.grad is not None
    assert logits.grad[0, 0].any()
    assert not logits.grad[0, 1:].any()
