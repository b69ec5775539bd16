"""Finetuning with every augmentation enabled: RandAugment, random erasing, mixup and CutMix."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mem.data.augment.mixing import PAIR, Mixing
from mem.data.beton.reader import Beton
from mem.data.loading.images import TrainingImages
from mem.data.loading.samplers import InstanceSampler
from mem.data.loading.shard import RankShard
from mem.errors import Stopped
from mem.jobs.classification import Classification
from mem.objectives.cross_entropy import CrossEntropy
from mem.train.checkpoints import Checkpoints
from mem.train.context import FitContext
from mem.train.loop import fit
from mem.train.schedules import Schedule, cosine
from mem.train.state import TrainState
from mem.train.step import StepOptions
from tests.data.test_loaders import EVERYTHING
from tests.train.training import PIXELS, Stop, assert_same, finetuning

STEPS, BATCH = 12, 12
MIXING = Mixing(0.8, 1.0, 1.0, 0.5)


def trained(
    images: Beton,
    folder: Path,
    *,
    micro_batch: int | None = None,
    stop_after: int | None = None,
    workers: int = 1,
    mixing: Mixing | None = MIXING,
) -> TrainState:
    state = finetuning(torch.float64)
    data = TrainingImages(
        images, InstanceSampler(37, 0), BATCH, 8, EVERYTHING, 0, workers, RankShard(), PAIR, (124, 116, 104)
    )
    fit(
        state,
        data,
        Classification(
            replace(PIXELS, dtype=torch.float64), CrossEntropy(5, 0.1), state.model.branches, EVERYTHING.erasing, mixing
        ),
        Schedule(STEPS, 37 / BATCH, cosine(2e-3, STEPS)),
        FitContext(
            "test",
            checkpoints=Checkpoints(folder / "checkpoints", "key", 1e9, print),
            stop=Stop(state, stop_after),
        ),
        StepOptions(micro_batch=micro_batch),
    )
    return state


@pytest.fixture(scope="module")
def uninterrupted(images, tmp_path_factory) -> TrainState:
    """The state after an uninterrupted training run without gradient accumulation."""
    return trained(images, tmp_path_factory.mktemp("uninterrupted"))


@pytest.mark.parametrize("micro_batch", [1, 5, 8])
def test_accumulation_changes_nothing(images, tmp_path, micro_batch, uninterrupted):
    accumulated = trained(images, tmp_path / "accumulated", micro_batch=micro_batch, workers=2)
    assert_same(accumulated.model, uninterrupted.model, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("stopped_at", [1, 7])
def test_an_interrupted_training_equals_an_uninterrupted_one(images, tmp_path, stopped_at, uninterrupted):
    with pytest.raises(Stopped):
        trained(images, tmp_path / "interrupted", stop_after=stopped_at)
    assert_same(trained(images, tmp_path / "interrupted", workers=4).model, uninterrupted.model)


def test_mixing_changes_the_trained_weights(images, tmp_path, uninterrupted):
    plain = trained(images, tmp_path, mixing=None)
    assert (
        uninterrupted.model.linear.weight - plain.model.linear.weight
    ).abs().max() > 1e-4  # far larger than rounding errors in float64
