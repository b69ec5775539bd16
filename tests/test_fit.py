"""The training loop: resuming, accumulating, stopping, diverging."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mem.checkpoints import Checkpoints
from mem.config import Augmentation, Decoder, VisionTransformer
from mem.data.beton import Beton, write_beton
from mem.data.loaders import TrainingImages
from mem.data.order import InstanceOrder
from mem.errors import Stopped, UserError
from mem.fit import Mechanics, TrainState, fit
from mem.models.backbones import Classifier
from mem.models.mae import MaskedAutoencoder
from mem.models.parameter_groups import layer_decay_groups
from mem.models.pixels import Pixels
from mem.optim import adamw
from mem.schedules import cosine, warmup_cosine
from mem.stages.finetune import classification
from mem.stages.pretrain import reconstruction
from mem.tracking.log import JsonLines, Silent, read_events

BACKBONE = VisionTransformer(
    name="v", kind="vit", image_size=8, patch_size=4, width=16, depth=2, heads=2, center_crop=1.0
)
PIXELS = Pixels((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
STEPS = 24


class Stop:
    """Asks for nothing, or for a stop once a number of steps was taken."""

    def __init__(self, state: TrainState | None = None, after: int | None = None, save: bool = False) -> None:
        self.state, self.after, self.save = state, after, save
        self.acknowledged = 0

    @property
    def requested(self) -> bool:
        return self.state is not None and self.after is not None and self.state.step >= self.after

    def take_save(self) -> bool:
        return self.save

    def saved(self) -> None:
        self.acknowledged += 1

    def deferred(self) -> AbstractContextManager[None]:
        return nullcontext()


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Beton:
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (37, 8, 8, 3), dtype=np.uint8)
    path = tmp_path_factory.mktemp("beton") / "train.beton"
    write_beton(path, np.arange(37) % 5, pictures.__getitem__, storage="raw", jpeg_quality=90, workers=1)
    return Beton(path)


def finetuning(dtype: torch.dtype = torch.float32) -> TrainState:
    torch.manual_seed(0)
    model = Classifier(BACKBONE, 5, drop_path=0.4).to(dtype)
    with torch.no_grad():
        model.linear.weight.normal_(std=0.1)
    return TrainState(model, adamw(layer_decay_groups(model.backbone, 0.05, 0.8), (0.9, 0.999)))


def trained(
    images: Beton,
    folder: Path,
    *,
    steps: int = STEPS,
    stop_after: int | None = None,
    micro_batch: int | None = None,
    every_seconds: float = 1e9,
    state: TrainState | None = None,
    lr: float = 2e-3,
    global_batch: int = 12,
    workers: int = 1,
) -> TrainState:
    state = state or finetuning()
    augmentation = Augmentation(crop_scale=(0.4, 1.0), flip=True)
    data = TrainingImages(images, InstanceOrder(len(images), 0), global_batch, 8, augmentation, 0, workers)
    said: list[str] = []
    with JsonLines(folder / "log.jsonl") as log:
        fit(
            state,
            data,
            classification(replace(PIXELS, dtype=dtype_of(state)), 0.1, state.model.branches),
            warmup_cosine(lr, 0.0, 1.0, STEPS * global_batch / 37, 37 / global_batch),
            steps=steps,
            steps_per_epoch=37 / global_batch,
            checkpoints=Checkpoints(folder / "checkpoints", "key", every_seconds, said.append),
            log=log,
            stop=Stop(state, stop_after),
            title="test",
            mechanics=Mechanics(micro_batch=micro_batch),
        )
    return state


def dtype_of(state: TrainState) -> torch.dtype:
    return next(state.model.parameters()).dtype


def curve(folder: Path) -> list[tuple[int, dict[str, float]]]:
    """What was logged, without what depends on the clock."""
    return [
        (e["step"], {k: v for k, v in e["metrics"].items() if k not in ("train/images_per_s", "train/data_wait")})
        for e in read_events(folder / "log.jsonl")
        if e["event"] == "metrics"
    ]


def assert_same(one: nn.Module, other: nn.Module, **tolerance: float) -> None:
    torch.testing.assert_close(
        dict(one.state_dict()), dict(other.state_dict()), **(tolerance or {"rtol": 0, "atol": 0})
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
    monkeypatch.setattr("mem.checkpoints.Checkpoints.save", lambda self, state: None)
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
            images, InstanceOrder(37, 0), 12, 8, Augmentation(crop_scale=(0.4, 1.0), flip=False), 0, 1
        )
        checkpoints = Checkpoints(folder, "key", 1e9, print)
        arguments = {"checkpoints": checkpoints, "log": Silent(), "title": "test", "steps_per_epoch": 3.0}
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
    expected = {"loss", "acc1", "lr", "epoch", "images_per_s", "data_wait"}
    assert set(events[-1]["metrics"]) == {f"train/{name}" for name in expected}
    assert [e["step"] for e in events] == list(range(1, STEPS + 1))
    assert events[-1]["metrics"]["train/epoch"] == pytest.approx(STEPS * 12 / 37)


def test_a_loss_that_is_not_finite_stops_the_training_and_keeps_the_last_good_checkpoint(images, tmp_path):
    with pytest.raises(Stopped):
        trained(images, tmp_path, stop_after=5)
    before = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    with pytest.raises(UserError, match=r"The loss is not a finite number any more, since a step from \d+ to \d+"):
        trained(images, tmp_path, lr=1e30, every_seconds=0)
    kept = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    newest = torch.load(tmp_path / "checkpoints" / kept[-1].replace(".json", ".pt"), weights_only=True)
    assert set(before) & set(kept)
    assert all(torch.isfinite(value).all() for value in newest["model"].values())


def test_a_checkpoint_that_was_asked_for_is_written_and_the_training_goes_on(images, tmp_path):
    state = finetuning()
    stop = Stop(save=True)
    data = TrainingImages(images, InstanceOrder(37, 0), 12, 8, Augmentation(crop_scale=(1, 1), flip=False), 0, 1)
    checkpoints = Checkpoints(tmp_path / "checkpoints", "key", 1e9, print)
    fit(
        state, data, classification(PIXELS, 0.0, state.model.branches), cosine(1e-3, 6), steps=6, steps_per_epoch=3.0,
        checkpoints=checkpoints, log=Silent(), stop=stop, title="test",
    )  # fmt: skip
    assert state.step == 6
    assert stop.acknowledged == 5
    assert {p.name for p in (tmp_path / "checkpoints").glob("*.pt")} == {"step-000000004.pt", "step-000000005.pt"}


def test_validation_is_logged_at_its_steps_and_at_the_end(images, tmp_path):
    state = finetuning()
    log = JsonLines(tmp_path / "log.jsonl")
    data = TrainingImages(images, InstanceOrder(37, 0), 12, 8, Augmentation(crop_scale=(1, 1), flip=False), 0, 1)
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
