"""The MEM head, compared with NumPy for every reading of the paper: outputs and gradients of all parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from mem.heads.base import Linear
from mem.heads.mem.head import MemHead
from tests.heads import numpy_mem
from tests.heads.mem_heads import mem_settings

WIDTH, FEATURES = 8, 5


class Case(NamedTuple):
    """A random float64 head with a batch."""

    head: MemHead
    groups: np.ndarray
    features: np.ndarray
    labels: np.ndarray
    log_prior: np.ndarray

    @property
    def batch(self) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(self.features), torch.from_numpy(self.labels)

    def state(self) -> dict[str, np.ndarray]:
        """Return the parameters."""
        return {name: p.detach().numpy().copy() for name, p in self.head.named_parameters()}

    def outputs(self, state: numpy_mem.State, fixed_norms: np.ndarray | None = None) -> tuple[np.ndarray, ...]:
        """Return logits, weights and norms from NumPy."""
        settings = self.head.settings
        heads = self.head.subnetworks.blocks[0].attention_heads if settings.depth else 1
        return numpy_mem.mem(state, self.groups, self.features, settings, heads, fixed_norms)

    def dac(self, state: numpy_mem.State, fixed_norms: np.ndarray | None = None) -> float:
        """Return L_DAC from NumPy."""
        return self.losses(state, fixed_norms)[0]

    def reo(self, state: numpy_mem.State) -> float:
        """Return the weighted L_REO from NumPy."""
        return self.losses(state)[1]

    def loss(self, state: numpy_mem.State, fixed_norms: np.ndarray | None = None) -> float:
        """Return the total loss from NumPy."""
        return sum(self.losses(state, fixed_norms))

    def losses(self, state: numpy_mem.State, fixed_norms: np.ndarray | None = None) -> tuple[float, float]:
        """Return L_DAC and the weighted L_REO from NumPy."""
        settings = self.head.settings
        logits, _, norms = self.outputs(state, fixed_norms)
        dac = numpy_mem.classification_loss(logits, self.labels, self.log_prior if settings.prior_in_loss else 0.0)
        return dac, numpy_mem.regularisation(norms, self.labels, self.groups, settings)


def case(groups: np.ndarray, samples: int, labels: np.ndarray | None = None, **changes: Any) -> Case:
    number = int(groups.max()) + 1
    shared = {"width": WIDTH, "fusion_width": 4, "xi": 3.0, "mu": 0.5, "reo_weight": 0.3, "groups": number}
    partition = {"partition": "shot" if number == 3 else "random_even"}
    settings = mem_settings(**{**shared, **partition, **changes})
    rng = np.random.default_rng(7)
    classes = len(groups)
    prior = np.log(rng.dirichlet(np.ones(classes)))
    start = Linear(torch.zeros(classes, FEATURES), torch.zeros(classes))
    head = MemHead(settings, start, torch.from_numpy(groups), torch.from_numpy(prior)).double()
    with torch.no_grad():
        for p in head.parameters():
            p.add_(torch.from_numpy(rng.normal(0, 0.3, p.shape)))
    features = rng.normal(size=(samples, 4, FEATURES) if settings.input == "tokens" else (samples, FEATURES))
    labels = rng.integers(0, classes, samples) if labels is None else labels
    return Case(head, groups, features, labels, prior)


def assert_gradients(head: MemHead, loss: Callable[[Mapping[str, np.ndarray]], float], state: numpy_mem.State) -> None:
    """Compare some gradients of each parameter with finite differences of the NumPy loss. No gradient counts as 0."""
    rng, h = np.random.default_rng(3), 1e-5
    for name, p in head.named_parameters():
        for flat in rng.choice(p.numel(), min(3, p.numel()), replace=False):
            at = np.unravel_index(flat, p.shape)
            up, down = dict(state), dict(state)
            up[name], down[name] = state[name].copy(), state[name].copy()
            up[name][at] += h
            down[name][at] -= h
            slope = (loss(up) - loss(down)) / (2 * h)
            found = 0.0 if p.grad is None else float(p.grad[at])
            assert found == pytest.approx(slope, rel=1e-4, abs=1e-6), f"{name}{at}"


EVEN = np.array([0, 1, 2, 0, 1, 2, 0])
SMALL = np.array([0, 0, 0, 0, 1, 1, 2])
TOKENS = {"input": "tokens"}
CASES: dict[str, tuple[np.ndarray, dict[str, Any]]] = {
    "free": (EVEN, {}),
    "softplus": (EVEN, {"weight": "softplus"}),
    "exp": (EVEN, {"weight": "exp"}),
    "residual": (EVEN, {"weight": "residual"}),
    "softmax": (EVEN, {"weight": "softmax"}),
    "sigmoid": (EVEN, {"weight": "sigmoid"}),
    "additive": (EVEN, {"weight": "additive"}),
    "mixture": (EVEN, {"weight": "mixture"}),
    "mixture with groups of different sizes": (SMALL, {"weight": "mixture"}),
    "tokens": (EVEN, TOKENS),
    "mean of norms": (EVEN, {**TOKENS, "pool": "norm"}),
    "mean of norms of one token": (EVEN, {"pool": "norm"}),
    "deep": (EVEN, {**TOKENS, "depth": 3, "width": 64}),
    "without blocks": (EVEN, {"depth": 0}),
    "a group smaller than K": (SMALL, {"top_k": 3}),
    "one group": (np.zeros(4, dtype=np.int64), {}),
    "four groups": (np.array([0, 1, 2, 3, 3]), {}),
    "raw norms": (EVEN, {"norms": "raw"}),
    "centred": (EVEN, {"logits": "centred"}),
    "log-softmax": (EVEN, {"logits": "log_softmax"}),
    "standardised": (EVEN, {"logits": "standardised"}),
    "standardised mixture": (EVEN, {"logits": "standardised", "weight": "mixture"}),
    "temperature": (EVEN, {"temperature": 0.4, "weight": "softmax"}),
    "learned temperature": (EVEN, {"temperature": "learned", "weight": "sigmoid"}),
    "prior in the loss": (EVEN, {"prior_in_loss": True, "sampler": "instance"}),
    "objective divided by xi squared": (EVEN, {"reo_scale": "xi_squared"}),
    "fresh classifier": (EVEN, {"classifier": "fresh", "classifier_from": None}),
    "random fusion": (EVEN, {"fusion_init": "default"}),
}


@pytest.mark.parametrize("name", CASES)
def test_every_reading_equals_numpy_in_values_and_gradients(name):
    groups, changes = CASES[name]
    it = case(groups, 6, **{"classifier": "trained", **changes})
    state = it.state()
    for ours, expected in zip(it.head.modulate(it.batch[0]), it.outputs(state), strict=True):
        np.testing.assert_allclose(ours.detach().numpy(), expected, rtol=1e-9, atol=1e-12)
    loss, metrics = it.head.loss(*it.batch)
    assert float(loss.detach()) == pytest.approx(it.loss(state), rel=1e-9)
    assert float(metrics["dac"].detach()) == pytest.approx(it.dac(state), rel=1e-9)
    loss.backward()
    assert all(p.grad is not None for p in it.head.parameters())
    assert_gradients(it.head, it.loss, state)


@pytest.mark.parametrize("samples", [3, 6])
def test_detached_norms_give_the_sub_networks_only_the_gradient_of_the_objective(samples):
    """With six samples, sub-networks use the fast path for one token; with three samples, they do not."""
    it = case(EVEN, samples, classifier="trained", detach_norms=True)
    state = it.state()
    norms = it.outputs(state)[2]
    loss, _ = it.head.loss(*it.batch)
    assert float(loss.detach()) == pytest.approx(it.loss(state), rel=1e-9)
    loss.backward()
    assert_gradients(it.head, lambda changed: it.loss(changed, norms), state)


@pytest.mark.parametrize("samples", [3, 6])
def test_the_first_phase_minimises_only_the_regularisation_objective(samples):
    it = case(EVEN, samples, classifier="trained", phases="regularisation_first")
    state = it.state()
    loss, metrics = it.head.first_phase_loss(*it.batch)
    assert float(loss.detach()) == pytest.approx(it.reo(state), rel=1e-9)
    assert float(metrics["dac"]) == pytest.approx(it.dac(state), rel=1e-9)
    loss.backward()
    assert {name.split(".")[0] for name, p in it.head.named_parameters() if p.grad is not None} == {"subnetworks"}
    assert_gradients(it.head, it.reo, state)


@pytest.mark.parametrize("samples", [3, 6])
def test_the_second_phase_minimises_only_the_classification_loss_on_norms_of_frozen_sub_networks(samples):
    it = case(EVEN, samples, classifier="trained", phases="regularisation_first")
    state = it.state()
    norms = it.outputs(state)[2]
    loss, metrics = it.head.loss(*it.batch)
    assert float(loss.detach()) == pytest.approx(it.dac(state), rel=1e-9)
    assert float(metrics["reo"]) == pytest.approx(it.reo(state) / it.head.settings.reo_weight, rel=1e-9)
    loss.backward()
    trained = {name.split(".")[0] for name, p in it.head.named_parameters() if p.grad is not None}
    assert trained == {"fusion", "classifier"}
    assert_gradients(it.head, lambda changed: it.dac(changed, norms), state)


@pytest.mark.parametrize("reading", [{}, {"weight": "mixture"}, {"logits": "standardised"}, {"logits": "log_softmax"}])
@pytest.mark.parametrize(
    ("groups", "labels"),
    [
        (EVEN, [1, 4, 1]),  # two groups absent from the batch
        (EVEN, [2]),  # one image
        (np.array([0, 1, 2]), [0, 1, 2, 2]),  # one class per group
        (np.zeros(1, dtype=np.int64), [0, 0]),  # one class
    ],
)
def test_edge_cases_equal_numpy(groups, labels, reading):
    it = case(groups, len(labels), np.array(labels), classifier="trained", **reading)
    loss, _ = it.head.loss(*it.batch)
    assert float(loss.detach()) == pytest.approx(it.loss(it.state()), rel=1e-9)
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in it.head.parameters())
