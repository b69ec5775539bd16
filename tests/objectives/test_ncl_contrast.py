"""NCL's contrastive branch, compared with NumPy and with the official code (see golden/README.md)."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from mem.config import NclObjective
from mem.objectives.base import Targets
from mem.objectives.build import build_objective
from mem.objectives.momentum_contrast import momentum_contrast
from mem.objectives.projections import Projections
from tests.objectives.contrastive import CONTRAST, Views, directions
from tests.objectives.golden import contrastive_recipe, recipe
from tests.objectives.settings import finetune

GOLDEN = json.loads((Path(__file__).parent / "golden" / "contrastive.json").read_text())["ncl"]
NCL = {"name": "ncl", "hard_classes": 2, "mutual_weight": 0.6}
EXPERTS = 3


def example(seed: int, samples: int) -> Views:
    """Return views of three experts. A third of the queue is empty."""
    rng = np.random.default_rng(seed)
    projections = [directions(rng, number, EXPERTS, 4) for number in (samples, samples, 6)]
    return Views(rng.integers(3, size=samples), *projections, np.where(rng.uniform(size=6) < 1 / 3, -1, 0))


def projections_of(targets: Targets) -> Projections:
    assert targets.projections is not None
    return targets.projections


def expected(views: Views, temperature: float) -> np.ndarray:
    """Return the value of each sample, with loops over samples and experts."""
    values = np.zeros(len(views.labels))
    for i in range(len(values)):
        for expert in range(EXPERTS):
            query = views.queries[i, expert]
            filled = views.queue[views.queue_labels >= 0, expert]
            scores = np.exp([query @ views.keys[i, expert] / temperature, *(filled @ query / temperature)])
            values[i] -= np.log(scores[0] / scores.sum())
    return values


@given(seed=st.integers(0, 10**6), samples=st.integers(1, 4))
@settings(deadline=None, max_examples=20)
def test_values_and_gradients_equal_numpy(seed, samples):
    views = example(seed, samples)
    queries = torch.from_numpy(views.queries).requires_grad_()
    values = momentum_contrast(projections_of(views.targets(queries)), 0.5)
    np.testing.assert_allclose(values.detach(), expected(views, 0.5), rtol=1e-9, atol=1e-9)
    (gradient,) = torch.autograd.grad(values.mean(), queries)
    for index in np.ndindex(views.queries.shape):
        step = np.zeros_like(views.queries)
        step[index] = 1e-5
        up, down = (expected(replace(views, queries=views.queries + s), 0.5).mean() for s in (step, -step))
        assert float(gradient[index]) == pytest.approx((up - down) / 2e-5, abs=1e-6)


def test_value_and_gradient_equal_the_official_ones():
    samples, width = len(recipe.LABELS), contrastive_recipe.WIDTH
    frequencies = {"queries": 1.9, "keys": 2.3, "queue": 2.9}
    arrays = {
        name: contrastive_recipe.directions(
            samples * (1 + (name == "queue")), recipe.EXPERTS, width, frequency=frequency
        )
        for name, frequency in frequencies.items()
    }
    views = Views(np.array(recipe.LABELS), **arrays, queue_labels=np.zeros(2 * samples, dtype=np.int64))
    queries = torch.from_numpy(views.queries).requires_grad_()
    found = projections_of(views.targets(F.normalize(queries, dim=-1)))  # the official code normalises in the loss
    value = momentum_contrast(found, contrastive_recipe.NCL["temperature"]).mean()
    (gradient,) = torch.autograd.grad(value, queries)
    assert float(value.detach()) == pytest.approx(GOLDEN["value"], rel=1e-9)
    np.testing.assert_allclose(gradient, GOLDEN["queries"], rtol=1e-9, atol=1e-9)
    queue = np.array(GOLDEN["queue"])
    np.testing.assert_allclose(queue[:samples], views.keys)  # the keys replace the oldest entries
    np.testing.assert_allclose(queue[samples:], views.queue[samples:])
    assert GOLDEN["position"] == samples


def test_the_weighted_contrast_is_added_to_the_nested_losses():
    views = example(3, 4)
    targets = views.targets(torch.from_numpy(views.queries))
    logits, counts = torch.from_numpy(np.random.default_rng(0).normal(size=(4, EXPERTS, 3))), np.array([50, 20, 3])
    plain = build_objective(finetune(NCL, experts=EXPERTS), counts)
    objective = {**NCL, "contrast": CONTRAST | {"projector_norm": False}, "contrast_weight": 0.5}
    both = build_objective(finetune(objective, experts=EXPERTS), counts)
    contrast = momentum_contrast(projections_of(targets), CONTRAST["temperature"])
    torch.testing.assert_close(both(logits, targets), plain(logits, targets) + 0.5 * contrast)
    with pytest.raises(ValueError, match="Ncl: found no projections"):
        both(logits, Targets(targets.labels))


@pytest.mark.parametrize("given_settings", [{"contrast": CONTRAST}, {"contrast_weight": 1.0}])
def test_a_contrast_and_its_weight_belong_together(given_settings):
    with pytest.raises(ValueError, match="contrast_weight: is required with `contrast`, and only then"):
        NclObjective.model_validate({**NCL, **given_settings})


def test_each_rank_finds_the_keys_of_its_own_samples():
    views = example(5, 4)
    queries = torch.from_numpy(views.queries)
    parts = [projections_of(views.targets(queries, slice(start, start + 2))) for start in (0, 2)]
    together = momentum_contrast(projections_of(views.targets(queries)), 0.2)
    torch.testing.assert_close(torch.cat([momentum_contrast(part, 0.2) for part in parts]), together)
