"""Objectives of finetuning, compared with NumPy in float64: values and gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mem.objectives.build import build_objective
from tests.objectives import numpy_objectives as reference
from tests.objectives.numpy_objectives import Samples, Values, gradient_of_mean
from tests.objectives.settings import finetune, targets

ROUNDING = {"rtol": 2e-6, "atol": 1e-5}
"""Constants of classes are float32."""


@dataclass(frozen=True)
class Case:
    """An objective and its NumPy version."""

    objective: dict[str, Any]
    numpy: Callable[[np.ndarray], Values]
    """Function of the class counts that returns the NumPy version."""
    label_smoothing: float = 0.0
    cosine_scale: float | None = None
    epoch: float = 0.0
    mixes: bool = False
    classes: tuple[int, ...] = field(default=(1, 2, 6))

    def check(self, counts: np.ndarray, z: np.ndarray, samples: Samples) -> None:
        """Compare values and gradients."""
        loss = build_objective(finetune(self.objective, self.label_smoothing, self.cosine_scale), counts)
        logits = torch.from_numpy(z).requires_grad_()
        values = loss(logits, targets(samples, self.epoch))
        expected = self.numpy(counts)
        np.testing.assert_allclose(values.detach().numpy(), expected(z, samples), **ROUNDING)
        values.mean().backward()
        assert logits.grad is not None
        np.testing.assert_allclose(logits.grad.numpy(), gradient_of_mean(expected, z, samples), **ROUNDING)


def bound(function: Callable[..., np.ndarray], **values: Any) -> Callable[[np.ndarray], Values]:
    """Bind the class counts and further arguments of a NumPy version."""
    return lambda counts: partial(function, counts=counts, **values)


def class_balanced(loss: str, gamma: float | None = None) -> Case:
    classes = (1, 2, 6) if loss == "softmax" else (2, 6)
    numpy = bound(reference.class_balanced, beta=0.99, loss=loss, gamma=gamma or 0.0)
    return Case({"name": "class_balanced", "beta": 0.99, "loss": loss, "gamma": gamma}, numpy, classes=classes)


def ldam(epoch: float, weighted: bool) -> Case:
    objective = {"name": "ldam", "max_margin": 0.5, "reweight_from_epoch": 80, "beta": 0.999}
    beta = 0.999 if weighted else None
    numpy = bound(reference.ldam, margin_of_smallest=10 * 0.5, beta=beta)
    return Case(objective, numpy, cosine_scale=10, epoch=epoch)


def focal(gamma: float) -> Case:
    return Case({"name": "focal", "gamma": gamma}, lambda _: partial(reference.focal, gamma=gamma), classes=(2, 6))


CASES = {
    "cross_entropy": Case(
        {"name": "cross_entropy"}, lambda _: partial(reference.cross_entropy, smoothing=0.1), 0.1, mixes=True
    ),
    "balanced_softmax": Case(
        {"name": "balanced_softmax"}, bound(reference.balanced_softmax, smoothing=0.1), 0.1, mixes=True
    ),
    "logit_adjustment": Case(
        {"name": "logit_adjustment", "tau": 1.5},
        bound(reference.logit_adjustment, tau=1.5, smoothing=0.1),
        0.1,
        mixes=True,
    ),
    "balanced_bce": Case(
        {"name": "balanced_bce", "tau": 1.5},
        bound(reference.balanced_bce, tau=1.5, smoothing=0.1),
        0.1,
        mixes=True,
        classes=(2, 6),
    ),
    "lade": Case(
        {"name": "lade", "regulariser_weight": 0.3, "quadratic_weight": 0.2},
        bound(reference.lade, alpha=0.3, quadratic=0.2),
    ),
    "ldam": ldam(79.9, weighted=False),
    "ldam reweighted": ldam(80.0, weighted=True),
    "class_balanced softmax": class_balanced("softmax"),
    "class_balanced sigmoid": class_balanced("sigmoid"),
    "class_balanced focal": class_balanced("focal", 0.5),
    "class_balanced focal 0": class_balanced("focal", 0.0),
    "focal": focal(0.5),
    "focal 2": focal(2.0),
    "focal 0": focal(0.0),
}


def batch(seed: int, classes: int, mixed: bool) -> tuple[np.ndarray, np.ndarray, Samples]:
    """Return counts, of which some are 0, logits, and targets."""
    rng = np.random.default_rng(seed)
    counts = rng.choice([0, 1, 3, 40, 500], classes).astype(np.int64)
    counts[rng.integers(classes)] = 90
    n = int(rng.integers(1, 7))
    labels = rng.choice(np.flatnonzero(counts), n)
    z = rng.normal(size=(n, classes)) * 3
    return counts, z, Samples(labels, labels[::-1].copy(), rng.uniform(size=n)) if mixed else Samples(labels)


@pytest.mark.parametrize(
    ("name", "classes", "mixed"),
    [(n, k, m) for n, case in CASES.items() for k in case.classes for m in ([False, True] if case.mixes else [False])],
)
@given(seed=st.integers(0, 10**6))
@settings(deadline=None, max_examples=8)
def test_values_and_gradients_equal_numpy(name, classes, mixed, seed):
    CASES[name].check(*batch(seed, classes, mixed))


@pytest.mark.parametrize("name", ["cross_entropy", "balanced_softmax", "logit_adjustment", "balanced_bce"])
def test_mixing_with_share_1_is_no_mixing(name):
    counts, z, samples = batch(0, 6, mixed=True)
    case = CASES[name]
    loss = build_objective(finetune(case.objective, case.label_smoothing), counts)
    mixed = targets(Samples(samples.labels, samples.partners, np.ones(len(z))))
    logits = torch.from_numpy(z)
    torch.testing.assert_close(loss(logits, mixed), loss(logits, targets(Samples(samples.labels))))


@given(seed=st.integers(0, 10**6))
@settings(deadline=None, max_examples=20)
def test_balanced_softmax_equals_logit_adjustment_with_tau_1(seed):
    counts, z, samples = batch(seed, 6, mixed=False)
    by_counts = build_objective(finetune("balanced_softmax"), counts)
    by_prior = build_objective(finetune({"name": "logit_adjustment", "tau": 1}), counts)
    logits = torch.from_numpy(z)
    torch.testing.assert_close(
        by_counts(logits, targets(samples)), by_prior(logits, targets(samples)), rtol=1e-5, atol=1e-5
    )


@given(seed=st.integers(0, 10**6))
@settings(deadline=None, max_examples=20)
def test_reweighting_of_ldam_does_not_change_the_mean_weight_of_the_training_images(seed):
    counts = np.maximum(batch(seed, 6, mixed=False)[0], 1)
    labels = np.repeat(np.arange(6), counts)
    z = torch.zeros(len(labels), 6)
    objective = {"name": "ldam", "max_margin": 1e-9, "reweight_from_epoch": 80, "beta": 0.999}
    loss = build_objective(finetune(objective, cosine_scale=1), counts)
    weighted, plain = (loss(z, targets(Samples(labels), epoch)).mean() for epoch in (80, 0))
    assert float(weighted) == pytest.approx(float(plain), rel=1e-4)


@given(seed=st.integers(0, 10**6), seed_of_order=st.integers(0, 10**6))
@settings(deadline=None, max_examples=20)
def test_the_mean_of_lade_does_not_depend_on_the_order_of_samples(seed, seed_of_order):
    counts, z, samples = batch(seed, 6, mixed=False)
    loss = build_objective(finetune(CASES["lade"].objective), counts)
    order = np.random.default_rng(seed_of_order).permutation(len(z))
    shuffled = loss(torch.from_numpy(z[order]), targets(Samples(samples.labels[order])))
    torch.testing.assert_close(shuffled.mean(), loss(torch.from_numpy(z), targets(samples)).mean())
