"""The finetuning recipe with everything on: RandAugment, erasing, mixup, CutMix."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mem.data.augment.mixing import PAIR, Mixing
from mem.data.beton.reader import Beton
from mem.data.loading.images import RankShard, TrainingImages
from mem.data.loading.samplers import InstanceSampler
from mem.errors import Stopped
from mem.stages.finetune import classification
from mem.tracking.log import NullLog
from mem.train.checkpoints import Checkpoints
from mem.train.loop import StepOptions, TrainState, fit
from mem.train.schedules import cosine
from tests.data.test_loaders import EVERYTHING
from tests.fit.training import PIXELS, Stop, assert_same, finetuning

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
        classification(replace(PIXELS, dtype=torch.float64), 0.1, state.model.branches, EVERYTHING.erasing, mixing),
        cosine(2e-3, STEPS),
        steps=STEPS,
        steps_per_epoch=37 / BATCH,
        checkpoints=Checkpoints(folder / "checkpoints", "key", 1e9, print),
        log=NullLog(),
        stop=Stop(state, stop_after),
        title="test",
        mechanics=StepOptions(micro_batch=micro_batch),
    )
    return state


@pytest.mark.parametrize("micro_batch", [1, 5, 8])
def test_accumulation_changes_nothing(images, tmp_path, micro_batch):
    whole = trained(images, tmp_path / "whole")
    parts = trained(images, tmp_path / "parts", micro_batch=micro_batch, workers=2)
    assert_same(parts.model, whole.model, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("broken_at", [1, 7])
def test_an_interrupted_training_ends_where_an_unbroken_one_does(images, tmp_path, broken_at):
    unbroken = trained(images, tmp_path / "unbroken")
    with pytest.raises(Stopped):
        trained(images, tmp_path / "broken", stop_after=broken_at)
    assert_same(trained(images, tmp_path / "broken", workers=4).model, unbroken.model)


def test_mixing_changes_what_is_learnt(images, tmp_path):
    mixed, plain = trained(images, tmp_path / "mixed"), trained(images, tmp_path / "plain", mixing=None)
    assert not torch.equal(mixed.model.linear.weight, plain.model.linear.weight)
