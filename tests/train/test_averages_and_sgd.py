"""Averaged weights, BatchNorm statistics and SGD in the training loop."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from mem.config import Augmentation
from mem.data.loading.images import TrainingImages
from mem.data.loading.samplers import InstanceSampler
from mem.errors import Stopped
from mem.jobs.classification import Classification
from mem.models.parameter_groups import layer_decay_groups
from mem.objectives.cross_entropy import CrossEntropy
from mem.train.context import FitContext
from mem.train.loop import Validation, fit
from mem.train.optimizers import averaged_copy, update_average
from mem.train.schedules import Schedule, cosine
from mem.train.state import TrainState
from tests.train.training import (
    CNN,
    PIXELS,
    SGD,
    assert_same,
    curve,
    finetuning,
    recipe,
    sgd_on_a_cnn_with_averages,
    trained,
)


@pytest.fixture(scope="module")
def uninterrupted_folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("uninterrupted")


@pytest.fixture(scope="module")
def uninterrupted(images, uninterrupted_folder) -> TrainState:
    """The state after an uninterrupted training run. Its log is in `uninterrupted_folder`."""
    return trained(images, uninterrupted_folder, state=sgd_on_a_cnn_with_averages(), steps=12)


@pytest.mark.parametrize("stopped_at", [1, 5, 11])
def test_averaged_weights_batch_norm_statistics_and_momentum_are_resumed(
    images, tmp_path, stopped_at, uninterrupted, uninterrupted_folder
):
    with pytest.raises(Stopped):
        state = sgd_on_a_cnn_with_averages()
        trained(images, tmp_path / "interrupted", state=state, steps=12, stop_after=stopped_at)
    resumed = trained(images, tmp_path / "interrupted", state=sgd_on_a_cnn_with_averages(), steps=12)
    assert_same(resumed.model, uninterrupted.model)
    assert resumed.ema is not None
    assert uninterrupted.ema is not None
    assert_same(resumed.ema, uninterrupted.ema)
    torch.testing.assert_close(resumed.optimizer.state_dict(), uninterrupted.optimizer.state_dict(), rtol=0, atol=0)
    assert curve(tmp_path / "interrupted") == curve(uninterrupted_folder)
    moved = [not torch.equal(a, b) for a, b in zip(resumed.ema.parameters(), resumed.model.parameters(), strict=True)]
    assert any(moved)


def test_averaged_weights_equal_those_of_timm():
    from timm.utils import ModelEmaV3

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    ours, timms = averaged_copy(model), ModelEmaV3(model, decay=0.9)
    for _ in range(5):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += torch.randn_like(parameter)
            model(torch.randn(8, 3))
        update_average(ours, model, 0.9)
        timms.update(model)
    assert_same(ours, timms.module, rtol=1e-5, atol=1e-6)


def test_validation_evaluates_the_averaged_model(images, tmp_path):
    state = finetuning(settings=recipe(ema_decay=0.5))
    validated: list[nn.Module] = []
    data = TrainingImages(images, InstanceSampler(37, 0), 12, 8, Augmentation(crop_scale=(1, 1), flip=False), 0, 1)
    fit(
        state,
        data,
        Classification(PIXELS, CrossEntropy(5, 0.0), state.model.branches),
        Schedule(3, 3.0, cosine(1e-3, 3)),
        FitContext("test"),
        validation=Validation(lambda model: validated.append(model) or {}, 1),
    )
    assert validated == [state.ema] * 3
    assert state.evaluated_model is state.ema


def test_sgd_equals_the_unfused_sgd_of_pytorch(images, tmp_path):
    state = finetuning(torch.float64, settings=recipe(betas=None, **SGD))
    reference = finetuning(torch.float64)
    reference.optimizer = torch.optim.SGD(
        layer_decay_groups(reference.model, 5e-4, 0.8, decay_all=True), lr=0.0, momentum=0.9, nesterov=True,
        fused=False, foreach=False,
    )  # fmt: skip
    fused = trained(images, tmp_path / "1", state=state, steps=10)
    unfused = trained(images, tmp_path / "2", state=reference, steps=10)
    assert_same(fused.model, unfused.model, rtol=1e-10, atol=1e-10)


def test_accumulation_changes_nothing_if_batch_norm_groups_are_not_split(images, tmp_path):
    settings = recipe(betas=None, ema_decay=0.9, **SGD)
    states = [
        trained(
            images, tmp_path / str(size), state=finetuning(torch.float64, CNN, settings), micro_batch=size, steps=10
        )
        for size in (None, 6)
    ]
    assert_same(states[0].model, states[1].model, rtol=1e-10, atol=1e-10)
    assert_same(states[0].evaluated_model, states[1].evaluated_model, rtol=1e-10, atol=1e-10)
