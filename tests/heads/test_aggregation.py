"""SADE's test-time aggregation, compared with NumPy and with values of the official code."""

from __future__ import annotations

import json
from pathlib import Path
from unittest.mock import create_autospec

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mem.data.batch import Batch
from mem.heads.aggregation import AggregationWeights, SadeAggregationHead, aggregate
from mem.jobs.online_features import OnlineBackbone
from mem.stages import adapt
from tests.heads.expert_heads import CLASSES, EXPERTS, random_ensemble, random_features
from tests.heads.golden import record_experts as official

GOLDEN = json.loads((Path(__file__).parent / "golden" / "experts.json").read_text())["aggregation"]


def test_the_gradient_equals_the_official_code():
    weights = AggregationWeights(official.EXPERTS).double()
    (-weights(torch.from_numpy(official.aggregation_inputs()[0])).mean()).backward()
    np.testing.assert_allclose(weights.scores.grad, GOLDEN["gradient_of_loss"], rtol=1e-6, atol=1e-9)


def test_an_epoch_of_sgd_equals_the_official_code():
    weights = AggregationWeights(official.EXPERTS).double()
    optimizer = torch.optim.SGD(weights.parameters(), **official.SGD)
    for logits in torch.from_numpy(official.aggregation_inputs()):
        optimizer.zero_grad()
        (-weights(logits).mean()).backward()
        optimizer.step()
    np.testing.assert_allclose(weights.scores.detach(), GOLDEN["scores"], rtol=1e-7)
    np.testing.assert_allclose(np.round(weights.weights.detach().numpy(), 2), GOLDEN["rounded_weights"])


@given(seed=st.integers(0, 10**6))
@settings(deadline=None, max_examples=10)
def test_similarity_and_gradient_equal_numpy(seed):
    rng = np.random.default_rng(seed)
    logits, scores = 2 * rng.normal(size=(5, 2, EXPERTS, CLASSES)), rng.normal(size=EXPERTS)

    def similarity(scores: np.ndarray) -> np.ndarray:
        weights = np.exp(scores) / np.exp(scores).sum()
        exponentials = np.exp(np.einsum("nvec,e->nvc", logits, weights))
        p = exponentials / exponentials.sum(axis=2, keepdims=True)
        lengths = np.linalg.norm(p, axis=2)
        return (p[:, 0] * p[:, 1]).sum(axis=1) / (lengths[:, 0] * lengths[:, 1])

    weights = AggregationWeights(EXPERTS).double()
    with torch.no_grad():
        weights.scores.copy_(torch.from_numpy(scores))
    found = weights(torch.from_numpy(logits))
    np.testing.assert_allclose(found.detach(), similarity(scores))
    found.mean().backward()
    for e in range(EXPERTS):
        step = 1e-6 * np.eye(EXPERTS)[e]
        slope = (similarity(scores + step).mean() - similarity(scores - step).mean()) / 2e-6
        assert weights.scores.grad is not None
        assert weights.scores.grad[e].item() == pytest.approx(slope, rel=1e-4, abs=1e-8)


def test_training_increases_the_similarity_of_the_two_views():
    """The stage `adapt` minimises minus the mean similarity, without gradients of the experts or labels."""

    def compute(images: torch.Tensor) -> tuple[torch.Tensor, None]:
        return images.float().flatten(1).unflatten(1, (EXPERTS, -1)), None

    backbone = create_autospec(OnlineBackbone, instance=True, compute=compute)
    rng, ensemble = np.random.default_rng(3), random_ensemble()
    first, second = (torch.from_numpy(rng.integers(0, 3, (6, 2, 2, 3), dtype=np.uint8)) for _ in range(2))
    batch = Batch(first, torch.full((6,), -1), 0, seed=0, second=second)
    weights = AggregationWeights(EXPERTS)
    loss, metrics = adapt._objective(backbone, ensemble)(weights, batch)
    views = [ensemble.expert_logits(view.float().flatten(1)).mean(dim=1).softmax(dim=1) for view in (first, second)]
    expected = torch.nn.functional.cosine_similarity(*views).mean()
    torch.testing.assert_close(loss, -expected)
    torch.testing.assert_close(metrics["similarity"], expected)
    loss.backward()
    assert weights.scores.grad is not None
    assert ensemble.weight.grad is None


def test_the_weights_start_equal():
    torch.testing.assert_close(AggregationWeights(4).weights, torch.full((4,), 0.25))


def test_the_head_is_the_weighted_mean_of_the_experts_and_transductive():
    ensemble, features = random_ensemble(), random_features()
    head = SadeAggregationHead(ensemble, torch.tensor([0.5, 0.3, 0.2]))
    logits = ensemble.expert_logits(features)
    torch.testing.assert_close(head(features), 0.5 * logits[:, 0] + 0.3 * logits[:, 1] + 0.2 * logits[:, 2])
    torch.testing.assert_close(aggregate(logits, torch.full((EXPERTS,), 1 / EXPERTS)), logits.mean(dim=1))
    assert head.transductive
    assert head.as_linear() is None
