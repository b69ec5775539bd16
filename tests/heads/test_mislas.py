"""The MiSLAS head, compared with NumPy and with values of the official code: values and gradients."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mem import config
from mem.heads.base import Linear
from mem.heads.build import build_head
from mem.heads.mislas import MislasHead, label_aware_smoothing
from mem.train.optimizers import head_optimizer, set_lr
from tests.heads.golden.record_mislas import CASES, case_inputs
from tests.heads.test_baselines import HEADS, TRAINING, head_inputs

GOLDEN = json.loads((Path(__file__).parent / "golden" / "mislas.json").read_text())["cases"]


def head_of(weight, bias, scale, counts, smoothing=(0.4, 0.1)) -> MislasHead:
    """Return a head in float64 with the given parameters."""
    smooth = label_aware_smoothing(np.asarray(counts), *smoothing).double()
    head = MislasHead(Linear(torch.from_numpy(weight), torch.from_numpy(bias)), smooth, 0.2)
    with torch.no_grad():
        head.scale.copy_(torch.from_numpy(scale))
    return head


def smoothing_by_class(counts, smooth_head, smooth_tail) -> list[float]:
    present = [n for n in counts if n > 0]
    low, high = min(present), max(present)
    return [
        smooth_tail + (smooth_head - smooth_tail) * np.sin(0.5 * np.pi * (n - low) / (high - low))
        if n > low
        else smooth_tail
        for n in counts
    ]


@given(counts=st.lists(st.integers(0, 5000), min_size=1, max_size=9).filter(any), tail=st.sampled_from([0.0, 0.1]))
@settings(deadline=None, max_examples=60)
def test_the_smoothing_of_each_class_equals_numpy(counts, tail):
    found = label_aware_smoothing(np.array(counts), 0.4, tail).numpy()
    np.testing.assert_allclose(found, smoothing_by_class(counts, 0.4, tail), atol=1e-6)


def test_classes_of_equal_size_have_the_smoothing_of_the_tail():
    assert label_aware_smoothing(np.array([7, 7, 7]), 0.4, 0.1).tolist() == pytest.approx([0.1] * 3)
    assert label_aware_smoothing(np.array([9, 0, 3]), 0.4, 0.1).tolist() == pytest.approx([0.4, 0.1, 0.1])


@given(seed=st.integers(0, 10**6), n=st.integers(1, 6))
@settings(deadline=None, max_examples=10)
def test_loss_and_gradients_equal_numpy(seed, n):
    counts = [500, 40, 7, 2, 3]
    rng = np.random.default_rng(seed)
    start = {"weight": rng.normal(size=(5, 4)), "bias": rng.normal(size=5), "scale": rng.uniform(0.5, 2, 5)}
    z, labels = rng.normal(size=(n, 4)), rng.integers(0, 5, n)
    smooth = np.float32(smoothing_by_class(counts, 0.4, 0.1)).astype(np.float64)

    def numpy_loss(weight, bias, scale) -> float:
        """Return the cross-entropy with the target (1 - e) one-hot + e / C."""
        logits = scale * (z @ weight.T + bias)
        targets = (1 - smooth[labels])[:, None] * np.eye(5)[labels] + smooth[labels][:, None] / 5
        log_sum = np.log(np.exp(logits).sum(axis=1, keepdims=True))
        return float((targets * (log_sum - logits)).sum(axis=1).mean())

    head = head_of(**start, counts=counts)
    loss, metrics = head.loss(torch.from_numpy(z), torch.from_numpy(labels))
    assert float(loss.detach()) == pytest.approx(numpy_loss(**start), rel=1e-6)
    logits = start["scale"] * (z @ start["weight"].T + start["bias"])
    np.testing.assert_allclose(head(torch.from_numpy(z)).detach().numpy(), logits)
    assert float(metrics["acc1"]) == pytest.approx(100 * (logits.argmax(1) == labels).mean(), abs=1e-4)
    loss.backward()
    h = 1e-6
    for name, values in start.items():
        for position in np.ndindex(values.shape):
            step = np.zeros_like(values)
            step[position] = h
            up, down = ({**start, name: values + sign * step} for sign in (1, -1))
            slope = (numpy_loss(**up) - numpy_loss(**down)) / (2 * h)
            assert float(head.get_parameter(name).grad[position]) == pytest.approx(slope, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradients_equal_the_official_code(name):
    counts, smooth_head, smooth_tail = CASES[name]
    z, labels, weight, bias, scale = case_inputs(len(counts))
    head = head_of(weight, bias, scale, counts, (smooth_head, smooth_tail))
    np.testing.assert_allclose(head.get_buffer("smoothing"), GOLDEN[name]["smoothing"], rtol=1e-6)
    loss = head.loss(torch.from_numpy(z), torch.from_numpy(labels))[0]
    loss.backward()
    assert float(loss.detach()) == pytest.approx(GOLDEN[name]["loss"], rel=1e-6)
    for key, parameter in head.named_parameters():
        np.testing.assert_allclose(parameter.grad, GOLDEN[name][key], rtol=1e-5, atol=1e-7)


def test_the_head_starts_as_the_finetuned_classifier_with_two_learning_rates():
    inputs = head_inputs()
    head = build_head(HEADS["mislas"], inputs)
    z = torch.randn(4, 6)
    torch.testing.assert_close(head(z), inputs.classifier(z))
    optimizer = head_optimizer(head.parameter_groups(), TRAINING)
    set_lr(optimizer, 0.5)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    found = {name: rates[id(parameter)] for name, parameter in head.named_parameters()}
    assert found == {"weight": pytest.approx(0.1), "bias": pytest.approx(0.1), "scale": 0.5}


def test_training_does_not_change_the_given_classifier():
    inputs = head_inputs()
    before = inputs.classifier.weight.detach().clone()
    head = build_head(HEADS["mislas"], inputs)
    with torch.no_grad():
        head.get_parameter("weight").add_(1)
    assert inputs.classifier.weight.equal(before)


def test_the_smoothing_depends_on_the_class_counts_of_the_training_images():
    head = build_head(HEADS["mislas"], head_inputs())
    expected = smoothing_by_class(head_inputs().class_counts.tolist(), 0.4, 0.1)
    np.testing.assert_allclose(head.get_buffer("smoothing"), expected, rtol=1e-6)


def test_without_finetuning_the_head_starts_from_the_probe():
    assert config.start_of(HEADS["mislas"], "ce") == "ce"
    assert config.start_of(HEADS["mislas"], None) is None
