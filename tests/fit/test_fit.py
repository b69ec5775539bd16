"""The training loop: resuming, accumulating, curves, checkpoints on request, validation, schedules."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from mem.config import Augmentation, Decoder
from mem.data.loading.images import TrainingImages
from mem.data.loading.samplers import InstanceSampler
from mem.errors import Stopped
from mem.models.mae import MaskedAutoencoder
from mem.stages.finetune import classification
from mem.stages.pretrain import reconstruction
from mem.tracking.log import JsonLines, NullLog, read_events
from mem.train.checkpoints import Checkpoints
from mem.train.loop import TrainState, fit
from mem.train.schedules import cosine, warmup_cosine
from tests.fit.training import (
    BACKBONE,
    PIXELS,
    STEPS,
    Stop,
    assert_same,
    curve,
    finetuning,
    trained,
)


@pytest.mark.parametrize("broken_at", [1, 7, 13, 23])
def test_an_interrupted_training_ends_where_an_unbroken_one_does(images, tmp_path, broken_at):
    unbroken = trained(images, tmp_path / "unbroken")
    with pytest.raises(Stopped, match=f"Saved at step {broken_at} of {STEPS}"):
        trained(images, tmp_path / "broken", stop_after=broken_at)
    resumed = trained(images, tmp_path / "broken")
    assert resumed.step == STEPS
    assert_same(resumed.model, unbroken.model)
    torch.testing.assert_close(resumed.optimizer.state_dict(), unbroken.optimizer.state_dict(), rtol=0, atol=0)
    assert curve(tmp_path / "broken") == curve(tmp_path / "unbroken")


def test_a_training_that_died_without_saving_logs_no_step_twice(images, tmp_path, monkeypatch):
    unbroken = trained(images, tmp_path / "unbroken")
    state = finetuning()
    with pytest.raises(Stopped):
        trained(images, tmp_path / "broken", state=state, stop_after=9)
    # It went on to step 15 and was killed there: its checkpoint is from step 9, its log goes further.
    monkeypatch.setattr("mem.train.checkpoints.Checkpoints.save", lambda self, state: None)
    with pytest.raises(Stopped):
        trained(images, tmp_path / "broken", stop_after=15)
    monkeypatch.undo()
    resumed = trained(images, tmp_path / "broken")
    assert_same(resumed.model, unbroken.model)
    assert curve(tmp_path / "broken") == curve(tmp_path / "unbroken")


def test_masks_are_resumed_too(images, tmp_path):
    def state() -> TrainState:
        torch.manual_seed(0)
        model = MaskedAutoencoder(BACKBONE, Decoder(width=8, depth=1, heads=2), 0.5, True)
        return TrainState(model, torch.optim.AdamW(model.parameters(), fused=True))

    def run(folder: Path, steps: int) -> nn.Module:
        made = state()
        data = TrainingImages(
            images, InstanceSampler(37, 0), 12, 8, Augmentation(crop_scale=(0.4, 1.0), flip=False), 0, 1
        )
        checkpoints = Checkpoints(folder, "key", 1e9, print)
        arguments = {"checkpoints": checkpoints, "log": NullLog(), "title": "test", "steps_per_epoch": 3.0}
        objective = reconstruction(PIXELS, BACKBONE.tokens)
        try:
            fit(made, data, objective, cosine(1e-3, 12), steps=12, stop=Stop(made, steps), **arguments)
        except Stopped:
            pass
        return made.model

    unbroken = run(tmp_path / "unbroken", 99)
    run(tmp_path / "broken", 5)
    assert_same(run(tmp_path / "broken", 99), unbroken)


@pytest.mark.parametrize("micro_batch", [1, 5, 6])
def test_accumulation_changes_nothing(images, tmp_path, micro_batch):
    states = [
        trained(images, tmp_path / str(size), state=finetuning(torch.float64), micro_batch=size, steps=10)
        for size in (None, micro_batch)
    ]
    assert_same(states[0].model, states[1].model, rtol=1e-10, atol=1e-10)


def test_workers_change_nothing(images, tmp_path):
    one, many = (trained(images, tmp_path / str(n), workers=n, steps=8) for n in (1, 3))
    assert_same(one.model, many.model)


def test_the_curves_hold_loss_learning_rate_speed_and_epoch(images, tmp_path):
    trained(images, tmp_path)
    events = [e for e in read_events(tmp_path / "log.jsonl") if e["event"] == "metrics"]
    expected = {"loss", "acc1", "grad_norm", "lr", "epoch", "images_per_s", "data_wait"}
    assert set(events[-1]["metrics"]) == {f"train/{name}" for name in expected}
    assert [e["step"] for e in events] == list(range(1, STEPS + 1))
    assert events[-1]["metrics"]["train/epoch"] == pytest.approx(STEPS * 12 / 37)


def test_a_checkpoint_that_was_asked_for_is_written_and_the_training_goes_on(images, tmp_path):
    state = finetuning()
    stop = Stop(save=True)
    data = TrainingImages(images, InstanceSampler(37, 0), 12, 8, Augmentation(crop_scale=(1, 1), flip=False), 0, 1)
    checkpoints = Checkpoints(tmp_path / "checkpoints", "key", 1e9, print)
    fit(
        state, data, classification(PIXELS, 0.0, state.model.branches), cosine(1e-3, 6), steps=6, steps_per_epoch=3.0,
        checkpoints=checkpoints, log=NullLog(), stop=stop, title="test",
    )  # fmt: skip
    assert state.step == 6
    assert stop.acknowledged == 5
    assert {p.name for p in (tmp_path / "checkpoints").glob("*.pt")} == {"step-000000004.pt", "step-000000005.pt"}


def test_validation_is_logged_at_its_steps_and_at_the_end(images, tmp_path):
    state = finetuning()
    log = JsonLines(tmp_path / "log.jsonl")
    data = TrainingImages(images, InstanceSampler(37, 0), 12, 8, Augmentation(crop_scale=(1, 1), flip=False), 0, 1)
    modes: list[bool] = []

    def validate(model: nn.Module) -> dict[str, float]:
        model.eval()
        modes.append(model.training)
        return {"val/acc1": 1.0}

    fit(
        state, data, classification(PIXELS, 0.0, state.model.branches), cosine(1e-3, 7), steps=7, steps_per_epoch=3.0,
        checkpoints=Checkpoints(tmp_path / "c", "key", 1e9, print), log=log, stop=Stop(), title="test",
        validate=validate, validate_every=3,
    )  # fmt: skip
    log.close()
    steps = [e["step"] for e in read_events(tmp_path / "log.jsonl") if "val/acc1" in e.get("metrics", {})]
    assert steps == [3, 6, 7]
    assert state.model.training


def test_the_schedule_warms_up_and_ends_at_the_minimum():
    lr = warmup_cosine(1.0, 0.1, warmup_epochs=2, epochs=10, steps_per_epoch=5)
    assert lr(0) == 0
    assert lr(5) == pytest.approx(0.5)
    assert lr(10) == pytest.approx(1.0)
    assert lr(30) == pytest.approx(0.55)
    assert lr(50) == pytest.approx(0.1)
    assert cosine(2.0, 10)(5) == pytest.approx(1.0)
