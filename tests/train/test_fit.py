"""The training loop: resuming, gradient accumulation, curves, requested checkpoints, validation and schedules."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from torch import nn

from mem.config import Augmentation, Decoder
from mem.data.loading.images import TrainingImages
from mem.data.loading.samplers import InstanceSampler
from mem.distributed import World
from mem.errors import Stopped
from mem.jobs.classification import Classification
from mem.models.mae import MaskedAutoencoder
from mem.objectives.cross_entropy import CrossEntropy
from mem.stages.pretrain import reconstruction
from mem.tracking.log import JsonLines, read_curve, read_events
from mem.train.checkpoints import Checkpoints
from mem.train.context import FitContext
from mem.train.loop import Validation, fit
from mem.train.meters import Meter
from mem.train.schedules import Schedule, cosine, warmup_cosine
from mem.train.state import TrainState
from tests.train.training import (
    BACKBONE,
    PIXELS,
    STEPS,
    Stop,
    assert_same,
    curve,
    finetuning,
    trained,
)


@pytest.fixture(scope="module")
def one_pass(images, tmp_path_factory) -> TrainState:
    """The state after a training run in float64 without gradient accumulation."""
    return trained(images, tmp_path_factory.mktemp("one_pass"), state=finetuning(torch.float64), steps=10)


@pytest.mark.parametrize("stopped_at", [1, 7, 13, 23])
def test_an_interrupted_training_equals_an_uninterrupted_one(
    images, tmp_path, stopped_at, uninterrupted, uninterrupted_folder
):
    with pytest.raises(Stopped, match=f"Saved at step {stopped_at} of {STEPS}"):
        trained(images, tmp_path / "interrupted", stop_after=stopped_at)
    resumed = trained(images, tmp_path / "interrupted")
    assert resumed.step == STEPS
    assert_same(resumed.model, uninterrupted.model)
    torch.testing.assert_close(resumed.optimizer.state_dict(), uninterrupted.optimizer.state_dict(), rtol=0, atol=0)
    assert curve(tmp_path / "interrupted") == curve(uninterrupted_folder)


def test_a_training_killed_before_saving_logs_no_step_twice_after_resuming(
    images, tmp_path, monkeypatch, uninterrupted, uninterrupted_folder
):
    state = finetuning()
    with pytest.raises(Stopped):
        trained(images, tmp_path / "interrupted", state=state, stop_after=9)
    # Training continues to step 15, where it is killed. The checkpoint is from step 9, but the log extends to step 15.
    monkeypatch.setattr("mem.train.checkpoints.Checkpoints.save", lambda self, state: None)
    with pytest.raises(Stopped):
        trained(images, tmp_path / "interrupted", stop_after=15)
    monkeypatch.undo()
    resumed = trained(images, tmp_path / "interrupted")
    assert_same(resumed.model, uninterrupted.model)
    assert curve(tmp_path / "interrupted") == curve(uninterrupted_folder)


def test_masks_are_the_same_after_resuming(images, tmp_path):
    def state() -> TrainState:
        torch.manual_seed(0)
        model = MaskedAutoencoder(BACKBONE, Decoder(width=8, depth=1, heads=2), 0.5, True)
        return TrainState(model, torch.optim.AdamW(model.parameters(), fused=True))

    def run(folder: Path, steps: int) -> nn.Module:
        trained_state = state()
        data = TrainingImages(
            images, InstanceSampler(37, 0), 12, 8, Augmentation(crop_scale=(0.4, 1.0), flip=False), 0, 1
        )
        context = FitContext(
            "test", checkpoints=Checkpoints(folder, "key", 1e9, print), stop=Stop(trained_state, steps)
        )
        objective = reconstruction(PIXELS, BACKBONE.tokens)
        try:
            fit(trained_state, data, objective, Schedule(12, 3.0, cosine(1e-3, 12)), context)
        except Stopped:
            pass
        return trained_state.model

    uninterrupted = run(tmp_path / "uninterrupted", 99)
    run(tmp_path / "interrupted", 5)
    assert_same(run(tmp_path / "interrupted", 99), uninterrupted)


@pytest.mark.parametrize("micro_batch", [1, 5, 6])
def test_accumulation_changes_nothing(images, tmp_path, micro_batch, one_pass):
    accumulated = trained(images, tmp_path, state=finetuning(torch.float64), micro_batch=micro_batch, steps=10)
    assert_same(accumulated.model, one_pass.model, rtol=1e-10, atol=1e-10)


def test_the_number_of_workers_changes_nothing(images, tmp_path, uninterrupted):
    assert_same(trained(images, tmp_path, workers=3).model, uninterrupted.model)


@pytest.mark.usefixtures("uninterrupted")
def test_the_curves_contain_loss_learning_rate_speed_and_epoch(uninterrupted_folder):
    events = [e for e in read_events(uninterrupted_folder / "log.jsonl") if e["event"] == "metrics"]
    expected = {"loss", "acc1", "grad_norm", "lr", "epoch", "images_per_s", "data_wait"}
    assert set(events[-1]["metrics"]) == {f"train/{name}" for name in expected}
    assert [e["step"] for e in events] == list(range(1, STEPS + 1))
    assert events[-1]["metrics"]["train/epoch"] == pytest.approx(STEPS * 12 / 37)


def test_a_requested_checkpoint_is_written_and_the_training_continues(images, tmp_path):
    state = finetuning()
    stop = Stop(save=True)
    data = TrainingImages(images, InstanceSampler(37, 0), 12, 8, Augmentation(crop_scale=(1, 1), flip=False), 0, 1)
    context = FitContext("test", checkpoints=Checkpoints(tmp_path / "checkpoints", "key", 1e9, print), stop=stop)
    objective = Classification(PIXELS, CrossEntropy(5, 0.0), state.model.branches)
    fit(state, data, objective, Schedule(6, 3.0, cosine(1e-3, 6)), context)
    assert state.step == 6
    assert stop.acknowledged == 5
    assert {p.name for p in (tmp_path / "checkpoints").glob("*.pt")} == {"step-000000004.pt", "step-000000005.pt"}


def test_validation_runs_at_its_interval_and_at_the_end(images, tmp_path):
    state = finetuning()
    log = JsonLines(tmp_path / "log.jsonl")
    data = TrainingImages(images, InstanceSampler(37, 0), 12, 8, Augmentation(crop_scale=(1, 1), flip=False), 0, 1)
    modes: list[bool] = []

    def validate(model: nn.Module) -> dict[str, float]:
        model.eval()
        modes.append(model.training)
        return {"val/acc1": 1.0}

    context = FitContext("test", checkpoints=Checkpoints(tmp_path / "c", "key", 1e9, print), log=log)
    objective = Classification(PIXELS, CrossEntropy(5, 0.0), state.model.branches)
    fit(state, data, objective, Schedule(7, 3.0, cosine(1e-3, 7)), context, validation=Validation(validate, 3))
    log.close()
    steps = [e["step"] for e in read_events(tmp_path / "log.jsonl") if "val/acc1" in e.get("metrics", {})]
    assert steps == [3, 6, 7]
    assert state.model.training


def test_the_learning_rate_warms_up_and_ends_at_its_minimum():
    lr = warmup_cosine(1.0, 0.1, warmup_epochs=2, epochs=10, steps_per_epoch=5)
    assert lr(0) == 0
    assert lr(5) == pytest.approx(0.5)
    assert lr(10) == pytest.approx(1.0)
    assert lr(30) == pytest.approx(0.55)
    assert lr(50) == pytest.approx(0.1)
    assert cosine(2.0, 10)(5) == pytest.approx(1.0)


def test_the_time_in_which_a_device_works_on_started_steps_is_counted(images, tmp_path, monkeypatch):
    """Steps on a GPU return at once. Reading the metrics waits for the GPU."""
    read = Meter.read

    def waiting(meter: Meter, world: World) -> dict[str, float]:
        time.sleep(0.05)
        return read(meter, world)

    monkeypatch.setattr(Meter, "read", waiting)
    trained(images, tmp_path, steps=4)
    rates = [value for _, value in read_curve(tmp_path / "log.jsonl", "train/images_per_s")]
    assert len(rates) == 4 and max(rates) < 12 / 0.05
