"""Cosine classifiers, as a layer and as heads, compared with NumPy: values and gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mem import config
from mem.errors import UserError
from mem.heads.build import HeadInputs, build_head, load_classifier, load_head, save_head
from mem.heads.cosine import CosineHead, fresh_cosine
from mem.models.cosine import CosineLinear, cosine_logits
from mem.models.weights.tensors import save_weights
from tests.heads.test_baselines import HEADS, TRAINING, head_inputs

COSINE = [name for name in HEADS if name.startswith("cosine")]
NEEDS_LINEAR = ["tau", "lws", "mislas", "logit_adjustment", "warm_crt", "group_constants", "logit_fusion", "mem"]


def cosine_inputs() -> HeadInputs:
    """Return inputs whose classifier is a cosine classifier."""
    linear = head_inputs()
    return HeadInputs(fresh_cosine(6, 7, 16, seed=4), linear.class_counts, linear.shots, linear.seed)


def numpy_logits(weight: np.ndarray, z: np.ndarray, scale: float) -> np.ndarray:
    return np.array([[scale * (w @ f) / (np.sqrt(w @ w) * np.sqrt(f @ f)) for w in weight] for f in z])


@given(seed=st.integers(0, 10**6), n=st.integers(1, 6), scale=st.sampled_from([1.0, 16.0, 30.0]))
@settings(deadline=None, max_examples=10)
def test_loss_and_gradients_of_a_head_equal_numpy(seed, n, scale):
    rng = np.random.default_rng(seed)
    weight, z = rng.normal(size=(5, 4)), rng.normal(size=(n, 4))
    labels, offset = rng.integers(0, 5, n), rng.normal(size=5)

    def numpy_loss(weight: np.ndarray) -> float:
        logits = numpy_logits(weight, z, scale) + offset
        return float((np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(n), labels]).mean())

    head = CosineHead(torch.from_numpy(weight), scale, torch.from_numpy(offset))
    found = head(torch.from_numpy(z)).detach().numpy()
    np.testing.assert_allclose(found, numpy_logits(weight, z, scale), rtol=1e-9, atol=1e-9)
    loss, metrics = head.loss(torch.from_numpy(z), torch.from_numpy(labels))
    assert float(loss.detach()) == pytest.approx(numpy_loss(weight), rel=1e-9)
    assert float(metrics["acc1"]) == pytest.approx(100 * (found.argmax(1) == labels).mean(), abs=1e-4)
    loss.backward()
    h = 1e-6
    for i, j in np.ndindex(weight.shape):
        step = np.zeros_like(weight)
        step[i, j] = h
        slope = (numpy_loss(weight + step) - numpy_loss(weight - step)) / (2 * h)
        assert float(head.weight.grad[i, j]) == pytest.approx(slope, rel=1e-4, abs=1e-6)


@given(seed=st.integers(0, 10**6))
@settings(deadline=None, max_examples=10)
def test_the_layer_equals_numpy_with_respect_to_its_input(seed):
    torch.manual_seed(seed)
    layer = CosineLinear(4, 3, 30).double()
    z = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    weight, direction = layer.weight.detach().numpy(), np.random.default_rng(seed).normal(size=(2, 3))
    logits = layer(z)
    np.testing.assert_allclose(logits.detach().numpy(), numpy_logits(weight, z.detach().numpy(), 30), atol=1e-9)
    (logits * torch.from_numpy(direction)).sum().backward()
    assert z.grad is not None
    for i, j in np.ndindex(2, 4):
        step = np.zeros((2, 4))
        step[i, j] = 1e-6
        up, down = ((direction * numpy_logits(weight, z.detach().numpy() + s * step, 30)).sum() for s in (1, -1))
        assert float(z.grad[i, j]) == pytest.approx((up - down) / 2e-6, rel=1e-4, abs=1e-5)


def test_the_logits_depend_on_no_norm_and_that_of_a_zero_feature_is_zero():
    layer = CosineLinear(6, 7, 30)
    assert layer.bias is None
    torch.testing.assert_close(layer.weight.norm(dim=1), torch.ones(7))
    z = torch.randn(4, 6)
    expected = layer(z).detach()
    torch.testing.assert_close(layer(1000 * z), expected, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        layer.weight.mul_(0.01)
    torch.testing.assert_close(layer(z), expected, rtol=1e-4, atol=1e-4)
    assert layer(torch.zeros(1, 6)).abs().max() == 0


@pytest.mark.parametrize("name", COSINE)
def test_a_cosine_head_starts_from_weights_that_depend_only_on_the_seed(name):
    one, given = (build_head(HEADS[name], inputs) for inputs in (head_inputs(), cosine_inputs()))
    assert isinstance(one, CosineHead)
    assert one.scale == 20
    assert torch.equal(one.weight, given.get_parameter("weight"))
    other = HeadInputs(head_inputs().classifier, head_inputs().class_counts, config.Shots(), seed=1)
    assert not torch.equal(one.weight, build_head(HEADS[name], other).get_parameter("weight"))
    assert one.as_linear() is None


@pytest.mark.parametrize(
    ("name", "tau"), [("cosine_balanced_softmax", 1), ("cosine_logit_adjusted_loss", 1.5), ("cosine_crt", 0)]
)
def test_a_cosine_head_has_the_prior_in_its_loss_but_not_in_its_predictions(name, tau):
    head, inputs = build_head(HEADS[name], head_inputs()), head_inputs()
    z, labels = torch.randn(5, 6), torch.tensor([0, 3, 4, 4, 6])
    logits = numpy_logits(head.get_parameter("weight").detach().double().numpy(), z.double().numpy(), 20)
    np.testing.assert_allclose(head(z).detach().numpy(), logits, atol=1e-4)
    adjusted = logits + tau * np.log(inputs.class_counts)
    expected = (np.log(np.exp(adjusted).sum(axis=1)) - adjusted[np.arange(5), labels.numpy()]).mean()
    assert float(head.loss(z, labels)[0].detach()) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", ["finetuned", "ce", "crt", "cosine_crt", "ncm"])
def test_a_head_next_to_a_cosine_classifier_is_saved_and_loaded(tmp_path, name):
    inputs = cosine_inputs()
    head = build_head(HEADS[name], inputs)
    save_head(tmp_path, head, HEADS[name], inputs)
    z, loaded = torch.randn(4, 6), load_head(tmp_path)
    assert type(loaded) is type(head)
    assert torch.equal(loaded(z), head(z))
    if name in ("finetuned", "ce"):
        torch.testing.assert_close(loaded(z), inputs.classifier(z))


@pytest.mark.parametrize("name", NEEDS_LINEAR)
def test_a_method_that_needs_a_linear_classifier_refuses_a_cosine_classifier(name):
    with pytest.raises(UserError, match="starts from the finetuned classifier, which is a cosine classifier"):
        build_head(HEADS[name], cosine_inputs())


def test_a_stored_cosine_classifier_is_loaded_with_its_scale(tmp_path):
    head = fresh_cosine(6, 7, 25.3, seed=0)
    tensors = {"weight": head.weight.detach(), "cosine_scale": torch.tensor(25.3, dtype=torch.float64)}
    save_weights(tmp_path / "classifier.safetensors", tensors, {})
    loaded = load_classifier(tmp_path / "classifier.safetensors")
    assert isinstance(loaded, CosineHead)
    assert loaded.scale == 25.3
    assert torch.equal(loaded.weight, head.weight)


def test_a_cosine_head_learns():
    torch.manual_seed(0)
    head = build_head(HEADS["cosine_crt"], head_inputs())
    z, labels = torch.randn(7, 6), torch.arange(7)
    optimizer = torch.optim.SGD(head.parameters(), lr=TRAINING.lr, momentum=0.9)
    before = float(head.loss(z, labels)[0].detach())
    for _ in range(50):
        optimizer.zero_grad()
        head.loss(z, labels)[0].backward()
        optimizer.step()
    assert float(head.loss(z, labels)[0].detach()) < before / 2


def test_cosines_are_computed_in_float32_under_autocast():
    rng = torch.Generator().manual_seed(0)
    features, weight = torch.randn(8, 64, generator=rng), torch.randn(5, 64, generator=rng)
    expected = cosine_logits(features, weight, 30.0)
    with torch.autocast("cpu", torch.bfloat16):
        found = cosine_logits(features, weight, 30.0)
        rounded = cosine_logits(features.bfloat16(), weight, 30.0)
    assert torch.equal(found, expected)
    assert rounded.dtype == torch.float32
