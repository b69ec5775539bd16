"""PaCo, compared with NumPy and with the official code (see golden/README.md), and its limits."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses import FakeTensorMode

from mem.objectives.base import Targets
from mem.objectives.build import build_objective, empty_counts_warning
from mem.objectives.projections import Projections
from tests.objectives.contrastive import CONTRAST, PACO, Views, directions, paco
from tests.objectives.golden import contrastive_recipe, recipe
from tests.objectives.settings import finetune

GOLDEN = json.loads((Path(__file__).parent / "golden" / "contrastive.json").read_text())
ROUNDING = {"rtol": 2e-6, "atol": 2e-6}
"""The log prior is float32."""


def example(seed: int, classes: int, samples: int, entries: int) -> tuple[np.ndarray, np.ndarray, Views]:
    """Return class counts, of which some are 0, logits and views. A third of the queue is empty."""
    rng = np.random.default_rng(seed)
    counts = rng.choice([0, 1, 3, 40, 500], classes)
    counts[rng.integers(classes)] = 90
    draw = np.flatnonzero(counts)
    queue_labels = np.where(rng.uniform(size=entries) < 1 / 3, -1, rng.choice(draw, entries))
    projections = [directions(rng, number, 4) for number in (samples, samples, entries)]
    views = Views(rng.choice(draw, samples), *projections, queue_labels)
    return counts, 3 * rng.normal(size=(samples, classes)), views


def loss_of(counts: np.ndarray, alpha: float = 0.05, temperature: float = 0.2):
    contrast = {**CONTRAST, "temperature": temperature}
    return build_objective(finetune({**PACO, "sample_weight": alpha, "contrast": contrast}), counts)


@pytest.mark.parametrize(("alpha", "temperature"), [(0.05, 0.2), (1.0, 0.5), (0.0, 0.2)])
@given(seed=st.integers(0, 10**6), classes=st.sampled_from([1, 2, 5]), samples=st.integers(1, 5))
@settings(deadline=None, max_examples=10)
def test_values_and_gradients_equal_numpy(alpha, temperature, seed, classes, samples):
    counts, z, views = example(seed, classes, samples, entries=6)
    logits, queries = (torch.from_numpy(x).requires_grad_() for x in (z, views.queries))
    values = loss_of(counts, alpha, temperature)(logits, views.targets(queries))
    np.testing.assert_allclose(values.detach(), paco(z, views, counts, alpha, temperature), **ROUNDING)
    gradients = torch.autograd.grad(values.mean(), (logits, queries))

    def mean(z: np.ndarray, q: np.ndarray) -> float:
        return paco(z, replace(views, queries=q), counts, alpha, temperature).mean()

    h, arrays = 1e-5, (z, views.queries)
    for which, (array, gradient) in enumerate(zip(arrays, gradients, strict=True)):
        for index in np.ndindex(array.shape):
            step = np.zeros_like(array)
            step[index] = h
            up, down = ([*arrays[:which], array + s, *arrays[which + 1 :]] for s in (step, -step))
            assert float(gradient[index]) == pytest.approx((mean(*up) - mean(*down)) / (2 * h), abs=2e-6, rel=2e-6)


def test_value_and_gradients_equal_the_official_ones():
    samples, width = len(recipe.LABELS), contrastive_recipe.WIDTH
    views = Views(
        np.array(recipe.LABELS),
        contrastive_recipe.directions(samples, width, frequency=1.9),
        contrastive_recipe.directions(samples, width, frequency=2.3),
        contrastive_recipe.queue(),
        np.array(contrastive_recipe.QUEUE_LABELS),
    )
    logits, queries = (torch.from_numpy(x).requires_grad_() for x in (recipe.logits(), views.queries))
    weight, temperature = contrastive_recipe.PACO["sample_weight"], contrastive_recipe.PACO["temperature"]
    value = loss_of(np.array(recipe.COUNTS), weight, temperature)(logits, views.targets(queries)).mean()
    gradients = torch.autograd.grad(value, (logits, queries))
    assert float(value.detach()) == pytest.approx(GOLDEN["paco"]["value"], rel=2e-6)
    for gradient, name in zip(gradients, ("logits", "queries"), strict=True):
        np.testing.assert_allclose(gradient, GOLDEN["paco"][name], **ROUNDING)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_values_of_a_part_of_the_batch_are_those_of_the_batch(size):
    counts, z, views = example(3, classes=5, samples=6, entries=6)
    loss, logits, queries = loss_of(counts), torch.from_numpy(z), torch.from_numpy(views.queries)
    expected = loss(logits, views.targets(queries))
    parts = [slice(start, start + size) for start in range(0, 6, size)]
    found = torch.cat([loss(logits[part], views.targets(queries, part)) for part in parts])
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_empty_entries_of_the_queue_have_no_effect():
    counts, z, views = example(5, classes=4, samples=4, entries=9)
    filled = views.queue_labels >= 0
    assert 0 < filled.sum() < 9
    shorter = replace(views, queue=views.queue[filled], queue_labels=views.queue_labels[filled])
    loss, logits, queries = loss_of(counts), torch.from_numpy(z), torch.from_numpy(views.queries)
    torch.testing.assert_close(loss(logits, views.targets(queries)), loss(logits, shorter.targets(queries)))


def test_similarities_are_not_rounded_under_autocast():
    counts, z, views = example(7, classes=5, samples=6, entries=6)
    loss, queries = loss_of(counts, temperature=0.01), torch.from_numpy(views.queries).float()
    views = replace(views, keys=views.keys.astype(np.float32), queue=views.queue.astype(np.float32))
    logits = torch.from_numpy(z).bfloat16()
    expected = loss(logits.float(), views.targets(queries))
    with torch.autocast("cpu", torch.bfloat16):
        values = loss(logits, views.targets(queries))
    assert values.dtype is torch.float32
    torch.testing.assert_close(values, expected)


@pytest.mark.parametrize("size", [1e4, -1e4])
def test_values_and_gradients_are_finite_for_large_logits_and_a_small_temperature(size):
    counts, z, views = example(11, classes=5, samples=5, entries=6)
    logits = torch.from_numpy(size * np.eye(5) + z).requires_grad_()
    queries = torch.from_numpy(views.queries).requires_grad_()
    values = loss_of(counts, temperature=1e-4)(logits, views.targets(queries))
    for gradient in torch.autograd.grad(values.mean(), (logits, queries)):
        assert gradient.isfinite().all()
    assert values.isfinite().all()


def test_the_loss_reads_no_values_and_saves_nothing():
    """Fake tensors have no values, so an operation that would wait for a device fails."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        loss, vectors, labels = loss_of(np.array([5, 3, 0])), torch.zeros(4, 5), torch.zeros(4, dtype=torch.int64)
        projections = Projections(vectors, 0, vectors, vectors, labels, vectors, labels)
        assert loss(torch.zeros(4, 3), Targets(labels, projections=projections)).shape == (4,)
    assert not list(loss.parameters())
    assert not loss.state_dict()


def test_invalid_input_is_an_error():
    counts, z, views = example(13, classes=3, samples=4, entries=6)
    loss, targets = loss_of(counts), views.targets(torch.from_numpy(views.queries))
    with pytest.raises(ValueError, match="Paco: found no projections"):
        loss(torch.from_numpy(z), Targets(targets.labels))
    with pytest.raises(ValueError, match="found logits of 4 classes, but training counts of 3 classes"):
        loss(torch.zeros(4, 4), targets)
    with pytest.raises(ValueError, match="not defined for mixed samples"):
        loss(torch.from_numpy(z), replace(targets, partner_labels=targets.labels, shares=torch.ones(4)))


def test_classes_without_training_images_are_named():
    warning = empty_counts_warning(finetune(PACO).objective, np.array([3, 0, 5]))
    assert warning is not None and "The objective `paco` counts each class without images as one image" in warning
