"""The step of finetuning with a contrastive objective: order of the keys, skipped steps, and devices."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

from mem.data.batch import Batch
from mem.distributed import SINGLE_PROCESS
from mem.jobs.classification import Classification
from mem.jobs.contrastive_classification import ContrastiveClassification, with_contrast
from mem.models.backbones import build
from mem.models.batch_norm import SampleBatchNorm, configure_batch_norms
from mem.models.parameter_groups import decay_groups, layer_decay_groups
from mem.objectives.build import build_objective
from mem.train.meters import FiniteWatch
from mem.train.optimizers import backbone_optimizer
from mem.train.state import TrainState
from mem.train.step import StepContext, StepOptions, train_step
from tests.objectives.contrastive import contrastive_finetune
from tests.train.steps import BATCH, SIDE, VIT
from tests.train.training import CNN, PIXELS

LABELS = torch.arange(BATCH) % 5


def training(norm_batch: int | None = None) -> tuple[TrainState, ContrastiveClassification]:
    """Return a small network, a CNN if it has BatchNorm, and the step of PaCo."""
    torch.manual_seed(0)
    recipe = contrastive_finetune(BATCH)
    backbone = VIT if norm_batch is None else CNN.model_copy(update={"image_size": SIDE, "norm_batch": norm_batch})
    classifier = build(backbone, 5, drop_path=0.4)
    loss = build_objective(recipe, np.full(5, 10))
    plain = Classification(PIXELS, loss, classifier.branches, global_batch=BATCH, images=100)
    step = with_contrast(plain, classifier, recipe, norm_batch)
    groups = layer_decay_groups(classifier, 0.05, 0.8) + decay_groups(step.model.projectors, 0.05)
    state = TrainState(step.model.train(), backbone_optimizer(groups, recipe), ema_decay=0.9)
    configure_batch_norms(state.model, SINGLE_PROCESS, BATCH, None)
    return state, step


def batch(step: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(step)
    shape = (BATCH, SIDE, SIDE, 3)
    first, second = (torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator) for _ in range(2))
    return Batch(first, LABELS, step * BATCH, seed=0, second=second)


def take_step(state: TrainState, objective: Any, step: int, *, skip: bool = False) -> None:
    context = StepContext(SINGLE_PROCESS, BATCH, StepOptions(skip_nonfinite=skip), FiniteWatch(skip))
    train_step(state, state.model, batch(step), objective, 0.05, context)


@pytest.mark.parametrize(("norm_batch", "shuffles"), [(None, False), (BATCH, False), (4, True)])
def test_the_key_encoder_processes_the_samples_in_random_order_if_batch_norm_has_groups(norm_batch, shuffles):
    _, step = training(norm_batch)
    assert step.shuffles == shuffles
    seen: list[torch.Tensor] = []
    forward = step.model.forward

    def record(images, second_views, *numbers):
        seen.append(second_views)
        return forward(images, second_views, *numbers)

    step.model.forward = record
    for number in (0, 1):
        step(step.model, batch(number))
    orders = []
    for number, views in enumerate(seen):
        second = batch(number).second
        assert second is not None
        expected = PIXELS.normalise(second)
        order = [int((expected == view).flatten(1).all(dim=1).nonzero()) for view in views]
        assert sorted(order) == list(range(BATCH))
        assert (order != sorted(order)) == shuffles
        orders.append(order)
    assert (orders[0] != orders[1]) == shuffles


def test_the_second_view_of_a_sample_has_random_numbers_of_its_own_for_stochastic_depth():
    found = []
    for norm_batch in (BATCH, 4):  # without and with a random order of the second views
        _, step = training(norm_batch)
        forward = step.model.forward

        def record(images, second_views, numbers, key_numbers, forward=forward):
            found.append((second_views, numbers, key_numbers))
            return forward(images, second_views, numbers, key_numbers)

        step.model.forward = record
        step(step.model, batch(1))
    for _, numbers, key_numbers in found:
        assert numbers.shape == key_numbers.shape
        assert not set(numbers.flatten().tolist()) & set(key_numbers.flatten().tolist())
    (views, _, plain), (shuffled_views, _, shuffled) = found
    order = [int((views == view).flatten(1).all(dim=1).nonzero()) for view in shuffled_views]
    assert order != sorted(order)
    assert torch.equal(shuffled, plain[order])


@pytest.mark.parametrize(("norm_batch", "expected"), [(None, BATCH), (4, 4)])
def test_the_norm_of_the_projector_has_the_groups_of_the_network(norm_batch, expected):
    projector = training(norm_batch)[1].model.projectors[0]
    assert [m.norm_batch for m in projector.modules() if isinstance(m, SampleBatchNorm)] == [expected]


@pytest.mark.parametrize("norm_batch", [None, 4])
def test_keys_are_in_the_order_of_the_samples(norm_batch):
    """The key encoder equals the trained network at the start, so equal views give equal keys and queries."""
    _, step = training(norm_batch)
    step.model.eval()
    same = batch()
    same = Batch(same.inputs, same.labels, 0, 0, second=same.inputs)
    step(step.model, same)
    assert step.model._new_keys is not None
    keys, labels = step.model._new_keys
    _, queries, _ = step.model(PIXELS.normalise(same.inputs), PIXELS.normalise(same.inputs))
    torch.testing.assert_close(keys, queries, rtol=1e-4, atol=1e-5)
    assert torch.equal(labels, LABELS)


@pytest.mark.parametrize("norm_batch", [None, 4])
@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_a_skipped_step_leaves_no_trace(norm_batch, kind):
    """After a skipped step, training continues as if the step had not been computed."""
    state, step = training(norm_batch)

    def failing(replica, batch):
        loss, metrics = step(replica, batch)
        return (loss * torch.inf if kind == "loss" else loss + (0 * loss).sqrt()), metrics

    take_step(state, step, 0, skip=True)
    before = copy.deepcopy(state.snapshot())
    take_step(state, failing, 1, skip=True)
    after = state.snapshot()
    for part in ("model", "ema"):
        for name, value in before[part].items():
            assert torch.equal(after[part][name], value), name
    assert int(step.model.get_buffer("queue_position")) == BATCH
    take_step(state, step, 2, skip=True)
    assert int(step.model.get_buffer("queue_position")) == 0
    assert (step.model.get_buffer("queue_labels") >= 0).all()


def test_a_step_moves_the_key_encoder_and_fills_the_queue():
    state, step = training()
    names = [name for name, _ in step.model.key_classifier.named_parameters()]
    take_step(state, step, 0)
    model = step.model.state_dict()
    moved = [name for name in names if not torch.equal(model[f"key_classifier.{name}"], model[f"classifier.{name}"])]
    assert "backbone.blocks.0.attn.proj.weight" in moved
    start = training()[1].model.state_dict()
    name = "backbone.blocks.0.attn.proj.weight"
    expected = 0.9 * start[f"key_classifier.{name}"] + 0.1 * model[f"classifier.{name}"]
    torch.testing.assert_close(model[f"key_classifier.{name}"], expected)
    assert model["queue_labels"].tolist() == [*LABELS.tolist(), *[-1] * BATCH]
