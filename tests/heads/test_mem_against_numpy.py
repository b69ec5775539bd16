"""The MEM head, compared with NumPy for every interpretation of the paper: outputs and gradients of all parameters."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mem.heads.base import Linear
from mem.heads.mem.head import MemHead
from tests.heads import numpy_mem
from tests.heads.mem_heads import mem_settings

WIDTH, FEATURES = 8, 5


def head_and_numpy(groups: np.ndarray, samples: int, labels: np.ndarray | None = None, **changes):
    """Return a random float64 head, features, labels, and NumPy versions of the head's outputs and loss."""
    number = int(groups.max()) + 1
    shared = {"width": WIDTH, "fusion_width": 4, "xi": 3.0, "mu": 0.5, "reo_weight": 0.3, "groups": number}
    partition = {"partition": "shot" if number == 3 else "random_even"}
    settings = mem_settings(**{**shared, **partition, **changes})
    rng = np.random.default_rng(7)
    classes = len(groups)
    start = Linear(torch.zeros(classes, FEATURES), torch.zeros(classes))
    head = MemHead(settings, start, torch.from_numpy(groups)).double()
    with torch.no_grad():
        for p in head.parameters():
            p.add_(torch.from_numpy(rng.normal(0, 0.3, p.shape)))
    tokens = settings.input == "tokens"
    features = rng.normal(size=(samples, 4, FEATURES) if tokens else (samples, FEATURES))
    labels = rng.integers(0, classes, samples) if labels is None else labels
    heads = head.subnetworks.blocks[0].attention_heads if settings.depth else 1

    def run(state):
        return numpy_mem.mem(
            state, groups, number, features, tokens=tokens, depth=settings.depth, heads=heads,
            top_k=settings.top_k, xi=settings.xi, weight=settings.weight,
        )  # fmt: skip

    def loss(state) -> float:
        logits, _, norms = run(state)
        return numpy_mem.loss(logits, norms, labels, groups, settings.xi, settings.mu, settings.reo_weight)

    return head, torch.from_numpy(features), torch.from_numpy(labels), run, loss


EVEN = np.array([0, 1, 2, 0, 1, 2, 0])
CASES = {
    "free": (EVEN, {}),
    "softplus": (EVEN, {"weight": "softplus"}),
    "exp": (EVEN, {"weight": "exp"}),
    "residual": (EVEN, {"weight": "residual"}),
    "additive": (EVEN, {"weight": "additive"}),
    "tokens": (EVEN, {"input": "tokens"}),
    "deep": (EVEN, {"input": "tokens", "depth": 3, "width": 64}),
    "without blocks": (EVEN, {"depth": 0}),
    "a group smaller than K": (np.array([0, 0, 0, 0, 1, 1, 2]), {"top_k": 3}),
    "one group": (np.zeros(4, dtype=np.int64), {}),
    "four groups": (np.array([0, 1, 2, 3, 3]), {}),
}


@pytest.mark.parametrize("case", CASES)
def test_every_reading_equals_numpy_in_values_and_gradients(case):
    groups, changes = CASES[case]
    head, features, labels, run, numpy_loss = head_and_numpy(groups, 6, classifier="trained", **changes)
    found = [part.detach().numpy() for part in head.modulate(features)]
    state = {name: p.detach().numpy().copy() for name, p in head.named_parameters()}
    for ours, expected in zip(found, run(state), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-9, atol=1e-12)
    loss, _ = head.loss(features, labels)
    assert float(loss.detach()) == pytest.approx(numpy_loss(state), rel=1e-9)
    loss.backward()
    rng, h = np.random.default_rng(3), 1e-5
    for name, p in head.named_parameters():
        for flat in rng.choice(p.numel(), min(3, p.numel()), replace=False):
            at = np.unravel_index(flat, p.shape)
            up, down = dict(state), dict(state)
            up[name], down[name] = state[name].copy(), state[name].copy()
            up[name][at] += h
            down[name][at] -= h
            slope = (numpy_loss(up) - numpy_loss(down)) / (2 * h)
            assert float(p.grad[at]) == pytest.approx(slope, rel=1e-4, abs=1e-6), f"{name}{at}"


@pytest.mark.parametrize(
    ("groups", "labels"),
    [
        (EVEN, [1, 4, 1]),  # two groups absent from the batch
        (EVEN, [2]),  # one image
        (np.array([0, 1, 2]), [0, 1, 2, 2]),  # one class per group
        (np.zeros(1, dtype=np.int64), [0, 0]),  # one class
    ],
)
def test_edge_cases_equal_numpy(groups, labels):
    head, features, target, _, numpy_loss = head_and_numpy(groups, len(labels), np.array(labels), classifier="trained")
    loss, _ = head.loss(features, target)
    state = {name: p.detach().numpy() for name, p in head.named_parameters()}
    assert float(loss.detach()) == pytest.approx(numpy_loss(state), rel=1e-9)
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in head.parameters())
