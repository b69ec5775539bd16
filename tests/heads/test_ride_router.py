"""RIDE's router, compared with NumPy and with values of the official code: loss, gradients and early exit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mem.heads.build import build_head
from mem.heads.ride_router import RideRouterHead, helpful, running_means
from tests.heads.expert_heads import (
    CLASSES,
    EXPERTS,
    ROUTER,
    WIDTH,
    ensemble_of,
    head_inputs,
    random_features,
)
from tests.heads.golden import record_experts as official

GOLDEN = json.loads((Path(__file__).parent / "golden" / "experts.json").read_text())["router"]


def router_of(values: dict[str, np.ndarray], *, scale: float | None = None, **changes) -> RideRouterHead:
    """Return a router in float64 with the given classifiers and weights."""
    ensemble = ensemble_of(values["weight"], values["bias"] if scale is None else None, scale)
    head = RideRouterHead(ROUTER.model_copy(update=changes), ensemble).double()
    with torch.no_grad():
        for e, layer in enumerate(head.hidden):
            layer.weight.copy_(torch.from_numpy(values["hidden_weight"][e]))
            layer.bias.copy_(torch.from_numpy(values["hidden_bias"][e]))
        head.output.weight.copy_(torch.from_numpy(values["output_weight"]))
        head.output.bias.copy_(torch.from_numpy(values["output_bias"]))
    return head


@pytest.mark.parametrize("name", official.ROUTER_CASES)
def test_the_router_equals_the_official_code(name):
    values, golden = official.router_inputs(), GOLDEN[name]
    head = router_of(values, scale=official.ROUTER_CASES[name], top_logits=official.TOP)
    features, labels = torch.from_numpy(values["features"]).flatten(1), torch.from_numpy(values["labels"])
    loss, metrics = head.loss(features, labels)
    loss.backward()
    # The official code stores its decisions in float32.
    assert loss.item() == pytest.approx(golden["loss"], rel=1e-6)
    for e, layer in enumerate(head.hidden):
        np.testing.assert_allclose(layer.weight.grad, golden["hidden_weight"][e], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(layer.bias.grad, golden["hidden_bias"][e], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(head.output.weight.grad, golden["output_weight"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(head.output.bias.grad, golden["output_bias"], rtol=1e-5, atol=1e-6)
    logits, used = head.route(features)
    assert used.tolist() == golden["experts_used"]
    assert set(golden["experts_used"]) == {1, 2, 3}
    np.testing.assert_allclose(logits.detach(), golden["logits"], rtol=1e-6, atol=1e-9)
    assert metrics["experts_used"].item() == pytest.approx(np.mean(golden["experts_used"]))


def numpy_router(values: dict[str, np.ndarray], z: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean logits of the first experts (samples, experts, classes) and the decisions (samples, E - 1)."""
    logits = np.einsum("new,ecw->nec", z, values["weight"]) + values["bias"]
    means = np.stack([logits[:, : e + 1].mean(axis=1) for e in range(logits.shape[1])], axis=1)
    decisions = []
    for e in range(logits.shape[1] - 1):
        unit = z[:, e] / np.linalg.norm(z[:, e], axis=1, keepdims=True)
        hidden = np.maximum(unit @ values["hidden_weight"][e].T + values["hidden_bias"][e], 0)
        inputs = np.concatenate([-np.sort(-means[:, e], axis=1)[:, :top], hidden], axis=1)
        decisions.append(inputs @ values["output_weight"][0] + values["output_bias"][0])
    return means, np.stack(decisions, axis=1)


def random_values(seed: int) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = {
        "weight": (EXPERTS, CLASSES, WIDTH), "bias": (EXPERTS, CLASSES), "hidden_weight": (EXPERTS - 1, 16, WIDTH),
        "hidden_bias": (EXPERTS - 1, 16), "output_weight": (1, 3 + 16), "output_bias": (1,),
    }  # fmt: skip
    values = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    return values, rng.normal(size=(6, EXPERTS, WIDTH)), rng.integers(0, CLASSES, 6)


@given(seed=st.integers(0, 10**6))
@settings(deadline=None, max_examples=8)
def test_loss_gradients_and_early_exit_equal_numpy(seed):
    values, z, labels = random_values(seed)

    def numpy_loss(**changes: np.ndarray) -> float:
        means, decisions = numpy_router({**values, **changes}, z, 3)
        right = means.argmax(axis=2) == labels[:, None]
        target = np.array([[not r[e] and r[e + 1 :].any() for e in range(EXPERTS - 1)] for r in right])
        log_p, log_q = -np.logaddexp(0, -decisions), -np.logaddexp(0, decisions)
        return float(-np.where(target, 100 * log_p, log_q).mean())

    head = router_of(values)
    features = torch.from_numpy(z.reshape(6, -1))
    loss = head.loss(features, torch.from_numpy(labels))[0]
    assert loss.item() == pytest.approx(numpy_loss(), rel=1e-9)
    loss.backward()
    h, position = 1e-6, (0, 2)
    gradient = head.output.weight.grad
    assert gradient is not None
    steps = [np.zeros_like(values["output_weight"]) for _ in range(2)]
    steps[0][position], steps[1][position] = h, -h
    up, down = (numpy_loss(output_weight=values["output_weight"] + step) for step in steps)
    assert gradient[position].item() == pytest.approx((up - down) / (2 * h), rel=1e-4, abs=1e-5)

    means, decisions = numpy_router(values, z, 3)
    probabilities = 1 / (1 + np.exp(-decisions))
    used = [1 + next((e for e in range(EXPERTS - 1) if p[e] <= 0.5), EXPERTS - 1) for p in probabilities]
    logits, found = head.route(features)
    assert found.tolist() == used
    np.testing.assert_allclose(logits.detach(), means[np.arange(6), np.array(used) - 1])
    assert torch.equal(head(features), logits)


def test_further_experts_help_only_if_the_prediction_is_wrong_and_a_later_one_is_right():
    table = [([0, 0, 1], [1, 1]), ([0, 1, 0], [1, 0]), ([1, 0, 1], [0, 1]), ([0, 0, 0], [0, 0]), ([1, 1, 1], [0, 0])]
    right = torch.tensor([row for row, _ in table])
    logits = torch.stack([1 - right, right], dim=2).float()  # class 1 is predicted where the prediction is right
    assert helpful(logits, torch.ones(len(table), dtype=torch.long)).int().tolist() == [target for _, target in table]


def test_the_running_means_start_with_the_first_expert_and_end_with_the_ensemble():
    logits = torch.arange(12.0).view(1, 3, 4)
    means = running_means(logits)
    torch.testing.assert_close(means[:, 0], logits[:, 0])
    torch.testing.assert_close(means[:, 2], logits.mean(dim=1))


def test_only_the_router_is_trained():
    head = build_head(ROUTER, head_inputs())
    trained = {name for name, p in head.named_parameters() if p.requires_grad}
    assert trained == {
        *(f"hidden.{e}.{kind}" for e in range(EXPERTS - 1) for kind in ("weight", "bias")),
        "output.weight",
        "output.bias",
    }


def test_all_logits_are_inputs_if_there_are_fewer_classes_than_top_logits():
    head = build_head(ROUTER.model_copy(update={"top_logits": 50}), head_inputs())
    assert isinstance(head, RideRouterHead)
    assert head.output.in_features == CLASSES + ROUTER.hidden_width
    assert head(random_features()).shape == (7, CLASSES)


@pytest.mark.parametrize(("threshold", "used"), [(1e-9, EXPERTS), (1 - 1e-9, 1)])
def test_the_threshold_decides_how_many_experts_are_used(threshold, used):
    head = build_head(ROUTER.model_copy(update={"threshold": threshold}), head_inputs())
    assert isinstance(head, RideRouterHead)
    assert set(head.route(random_features())[1].tolist()) == {used}
