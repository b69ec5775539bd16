"""The search for a micro-batch that fits into the device's memory, and torch.compile."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from mem.config import Augmentation
from mem.data.loading.images import TrainingImages
from mem.data.loading.samplers import InstanceSampler
from mem.distributed import SINGLE_PROCESS, World
from mem.errors import UserError
from mem.jobs.classification import Classification
from mem.objectives.cross_entropy import CrossEntropy
from mem.train.micro_batch import Trial, find_micro_batch, fitting_micro_batch
from tests.conftest import REPOSITORY
from tests.train.training import (
    PIXELS,
    assert_same,
    sgd_on_a_cnn_with_averages,
    trained,
)


def test_the_micro_batch_is_halved_until_it_fits_on_every_rank():
    tried: list[int] = []

    def attempt(size: int) -> None:
        tried.append(size)
        if size > 13:
            raise torch.OutOfMemoryError("CUDA out of memory")

    assert fitting_micro_batch(attempt, 100, 1, lambda out_of_memory: out_of_memory) == 13
    assert tried == [100, 50, 25, 13]
    # Another rank has less free memory.
    assert fitting_micro_batch(attempt, 100, 1, lambda out_of_memory: out_of_memory or tried[-1] > 7) == 7
    assert fitting_micro_batch(attempt, 96, 12, lambda out_of_memory: out_of_memory) == 12
    with pytest.raises(UserError, match=r"A micro-batch of 16 image\(s\) does not fit"):
        fitting_micro_batch(attempt, 64, 16, lambda out_of_memory: out_of_memory)


@dataclass(frozen=True)
class UnequalParts(World):
    """A rank of two, of which the other one has a part of 5 samples."""

    def from_all(self, value: Any) -> list[Any]:
        return [value, 5]

    def any(self, flag: bool) -> bool:
        return flag


def test_ranks_with_unequal_parts_try_the_same_sizes(images):
    tried: list[int] = []
    state = sgd_on_a_cnn_with_averages()

    def objective(replica, batch):
        tried.append(len(batch))
        return replica.backbone.fc.weight.sum() * 0, {}

    data = TrainingImages(images, InstanceSampler(37, 0), 4, 8, Augmentation(crop_scale=(0.4, 1.0), flip=True), 0, 1)
    trial = Trial(state, objective, next(iter(data.from_step(0, 1))), UnequalParts(), precision="fp32")
    assert find_micro_batch(trial, print) == 5
    assert tried == [4, 4]  # this rank has only 4 samples


def test_other_errors_than_out_of_memory_are_raised():
    def attempt(size: int) -> None:
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        fitting_micro_batch(attempt, 8, 1, lambda out_of_memory: out_of_memory)


def test_the_trial_of_a_micro_batch_leaves_the_state_unchanged(images, tmp_path, monkeypatch):
    untried = trained(images, tmp_path / "plain", state=sgd_on_a_cnn_with_averages(), micro_batch=6, steps=4)
    state = sgd_on_a_cnn_with_averages()
    messages: list[str] = []
    cross_entropy = Classification(PIXELS, CrossEntropy(5, 0.1), state.model.branches)

    def objective(replica, batch):
        if len(batch) > 6:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return cross_entropy(replica, batch)

    data = TrainingImages(images, InstanceSampler(37, 0), 12, 8, Augmentation(crop_scale=(0.4, 1.0), flip=True), 0, 1)
    trial = Trial(state, objective, next(iter(data.from_step(0, 1))), SINGLE_PROCESS, precision="fp32")
    micro_batch = find_micro_batch(trial, messages.append)
    assert micro_batch == 6
    assert messages == ["12 images do not fit into the GPU's memory at once. The micro-batch is 6."]
    trained(images, tmp_path / "tried", state=state, micro_batch=micro_batch, steps=4)
    assert_same(state.model, untried.model)


COMPILED = """
from pathlib import Path
import torch
from mem.data.beton.reader import Beton
from tests.train.training import assert_same, finetuning, trained

folder = Path("{folder}")
plain, compiled = (
    trained(Beton(folder / "train.beton"), folder / str(c), state=finetuning(torch.float64), steps=3, compile=c)
    for c in (False, True)
)
assert_same(compiled.model, plain.model, rtol=1e-9, atol=1e-9)
"""


@pytest.mark.stage
def test_a_compiled_training_equals_an_uncompiled_one_up_to_rounding(images, tmp_path):
    # Use a separate process, because torch.compile cannot trace the shape checks that the tests add to functions.
    shutil.copy(images.path, tmp_path / "train.beton")
    run = [sys.executable, "-c", COMPILED.format(folder=tmp_path)]
    done = subprocess.run(run, cwd=REPOSITORY, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr
