"""Logit adjustment, balanced softmax and nearest class mean, compared with NumPy: values and gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mem.heads.base import Linear
from mem.heads.ncm import nearest_class_mean
from mem.heads.prior import PriorLinear, log_prior, logit_adjusted

seeds = st.integers(0, 10**6)
COUNTS = np.array([500, 40, 7, 0, 3])


def linear(seed: int = 0) -> tuple[np.ndarray, np.ndarray, Linear]:
    rng = np.random.default_rng(seed)
    weight, bias = rng.normal(size=(5, 4)), rng.normal(size=5)
    return weight, bias, Linear(torch.from_numpy(weight), torch.from_numpy(bias))


@given(seed=seeds, tau=st.floats(0, 3))
@settings(deadline=None)
def test_post_hoc_adjustment_subtracts_tau_log_prior(seed, tau):
    weight, bias, classifier = linear(seed)
    z = np.random.default_rng(seed + 1).normal(size=(3, 4))
    prior = np.maximum(COUNTS, 1) / np.maximum(COUNTS, 1).sum()
    found = logit_adjusted(classifier, log_prior(COUNTS).double(), tau)(torch.from_numpy(z)).detach().numpy()
    np.testing.assert_allclose(found, z @ weight.T + bias - tau * np.log(prior), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["logit_adjusted_loss", "balanced_softmax"])
@given(seed=seeds, n=st.integers(1, 6))
@settings(deadline=None, max_examples=10)
def test_losses_with_class_counts_and_their_gradients_equal_numpy(kind, seed, n):
    weight, bias, classifier = linear(seed)
    counts = np.array([500, 40, 7, 2, 3])
    # Ren et al. define balanced softmax as n_j exp(z_j) / sum n_i exp(z_i).
    offset = 1.5 * np.log(counts / counts.sum()) if kind == "logit_adjusted_loss" else np.log(counts)
    head = PriorLinear(classifier, torch.from_numpy(offset))
    rng = np.random.default_rng(seed + 1)
    z, labels = rng.normal(size=(n, 4)), rng.integers(0, 5, n)

    def numpy_loss(w: np.ndarray, b: np.ndarray) -> float:
        raised = np.exp(offset) * np.exp(z @ w.T + b)
        return float(-np.log(raised[np.arange(n), labels] / raised.sum(axis=1)).mean())

    loss, metrics = head.loss(torch.from_numpy(z), torch.from_numpy(labels))
    assert float(loss.detach()) == pytest.approx(numpy_loss(weight, bias), rel=1e-9)
    plain = z @ weight.T + bias
    assert float(metrics["acc1"]) == pytest.approx(100 * (plain.argmax(1) == labels).mean(), abs=1e-4)
    np.testing.assert_allclose(head(torch.from_numpy(z)).detach().numpy(), plain)
    loss.backward()
    h = 1e-6
    for i, j in np.ndindex(weight.shape):
        step = np.zeros_like(weight)
        step[i, j] = h
        slope = (numpy_loss(weight + step, bias) - numpy_loss(weight - step, bias)) / (2 * h)
        assert float(head.weight.grad[i, j]) == pytest.approx(slope, rel=1e-4, abs=1e-6)


def test_balanced_softmax_equals_the_logit_adjusted_loss_with_tau_1():
    _, _, classifier = linear()
    z, labels = torch.randn(6, 4).double(), torch.arange(6) % 5
    counts = np.array([500, 40, 7, 2, 3])
    by_counts = PriorLinear(classifier, torch.from_numpy(np.log(counts))).loss(z, labels)[0]
    by_prior = PriorLinear(classifier, torch.from_numpy(np.log(counts / counts.sum()))).loss(z, labels)[0]
    torch.testing.assert_close(by_counts, by_prior)


@given(seed=seeds, batch=st.integers(1, 40))
@settings(deadline=None, max_examples=20)
def test_nearest_class_mean_equals_numpy_and_never_predicts_an_empty_class(seed, batch):
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(30, 4)).astype(np.float32)
    labels = np.concatenate([np.arange(4), rng.integers(0, 4, 26)])
    labels[labels == 2] = 4  # class 2 has no images
    mean = z.mean(axis=0)

    def unit(x: np.ndarray) -> np.ndarray:
        return (x - mean) / np.linalg.norm(x - mean, axis=1, keepdims=True)

    batches = [
        (torch.from_numpy(z[i : i + batch]), torch.from_numpy(labels[i : i + batch])) for i in range(0, 30, batch)
    ]
    head = nearest_class_mean(batches, classes=5)
    queries = rng.normal(size=(9, 4)).astype(np.float32)
    found = head(torch.from_numpy(queries)).numpy()
    for k in (0, 1, 3, 4):
        centre = unit(z[labels == k]).mean(axis=0)
        np.testing.assert_allclose(found[:, k], -((unit(queries) - centre) ** 2).sum(axis=1), rtol=1e-3, atol=1e-5)
    assert np.isneginf(found[:, 2]).all()
