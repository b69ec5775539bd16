"""The training loop: resuming, accumulating, stopping, diverging."""

from __future__ import annotations

import shutil
import subprocess
import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mem.checkpoints import Checkpoints
from mem.config import Augmentation, Backbone, Decoder, TimmNetwork, Training, VisionTransformer
from mem.data.beton import Beton, write_beton
from mem.data.loaders import TrainingImages
from mem.data.order import InstanceOrder
from mem.device_memory import fitting_micro_batch
from mem.errors import Stopped, UserError
from mem.fit import Mechanics, Objective, TrainState, fit
from mem.meters import SKIPPED_IN_A_ROW
from mem.models.backbones import build
from mem.models.mae import MaskedAutoencoder
from mem.models.parameter_groups import layer_decay_groups
from mem.models.pixels import Pixels
from mem.optim import average_into, backbone_optimizer, frozen_copy
from mem.schedules import cosine, warmup_cosine
from mem.stages.finetune import classification
from mem.stages.pretrain import reconstruction
from mem.tracking.log import JsonLines, Silent, read_events
from tests.conftest import REPOSITORY

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


ADAMW = {"optimizer": "adamw", "betas": (0.9, 0.999), "weight_decay": 0.05}
SGD = {"optimizer": "sgd", "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4, "decay_all": True}
CNN = TimmNetwork(name="c", kind="timm", model="resnet10t", image_size=8, norm_batch=6, center_crop=1.0)


def recipe(**changes) -> Training:
    basis = {"epochs": 10, "warmup_epochs": 1, "global_batch": 12, "base_lr": 1e-3, "min_lr": 0, "precision": "fp32"}
    return Training(**{**basis, **ADAMW, **changes})


def finetuning(
    dtype: torch.dtype = torch.float32, backbone: Backbone = BACKBONE, settings: Training | None = None
) -> TrainState:
    settings = settings or recipe()
    torch.manual_seed(0)
    model = build(backbone, 5, drop_path=0.4).to(dtype)
    with torch.no_grad():
        model.linear.weight.normal_(std=0.1)
    groups = layer_decay_groups(model, settings.weight_decay, 0.8, decay_all=settings.decay_all)
    return TrainState(model, backbone_optimizer(groups, settings), settings.ema_decay)


def sgd_on_a_cnn_with_averages() -> TrainState:
    return finetuning(backbone=CNN, settings=recipe(betas=None, ema_decay=0.9, **SGD))


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
    objective: Objective | None = None,
    **mechanics,
) -> TrainState:
    state = state or finetuning()
    augmentation = Augmentation(crop_scale=(0.4, 1.0), flip=True)
    data = TrainingImages(images, InstanceOrder(len(images), 0), global_batch, 8, augmentation, 0, workers)
    said: list[str] = []
    with JsonLines(folder / "log.jsonl") as log:
        fit(
            state,
            data,
            objective or classification(replace(PIXELS, dtype=dtype_of(state)), 0.1, state.model.branches),
            warmup_cosine(lr, 0.0, 1.0, STEPS * global_batch / 37, 37 / global_batch),
            steps=steps,
            steps_per_epoch=37 / global_batch,
            checkpoints=Checkpoints(folder / "checkpoints", "key", every_seconds, said.append),
            log=log,
            stop=Stop(state, stop_after),
            title="test",
            mechanics=Mechanics(micro_batch=micro_batch, **mechanics),
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
    expected = {"loss", "acc1", "grad_norm", "lr", "epoch", "images_per_s", "data_wait"}
    assert set(events[-1]["metrics"]) == {f"train/{name}" for name in expected}
    assert [e["step"] for e in events] == list(range(1, STEPS + 1))
    assert events[-1]["metrics"]["train/epoch"] == pytest.approx(STEPS * 12 / 37)


@pytest.mark.parametrize("broken_at", [1, 5, 11])
def test_averages_batchnorm_and_momentum_are_resumed_too(images, tmp_path, broken_at):
    unbroken = trained(images, tmp_path / "unbroken", state=sgd_on_a_cnn_with_averages(), steps=12)
    with pytest.raises(Stopped):
        state = sgd_on_a_cnn_with_averages()
        trained(images, tmp_path / "broken", state=state, steps=12, stop_after=broken_at)
    resumed = trained(images, tmp_path / "broken", state=sgd_on_a_cnn_with_averages(), steps=12)
    assert_same(resumed.model, unbroken.model)
    assert resumed.ema is not None
    assert unbroken.ema is not None
    assert_same(resumed.ema, unbroken.ema)
    torch.testing.assert_close(resumed.optimizer.state_dict(), unbroken.optimizer.state_dict(), rtol=0, atol=0)
    assert curve(tmp_path / "broken") == curve(tmp_path / "unbroken")
    moved = [not torch.equal(a, b) for a, b in zip(resumed.ema.parameters(), resumed.model.parameters(), strict=True)]
    assert any(moved)


def test_averages_are_those_of_timm():
    from timm.utils import ModelEmaV3

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    ours, timms = frozen_copy(model), ModelEmaV3(model, decay=0.9)
    for _ in range(5):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += torch.randn_like(parameter)
            model(torch.randn(8, 3))
        average_into(ours, model, 0.9)
        timms.update(model)
    assert_same(ours, timms.module, rtol=1e-6, atol=1e-7)


def test_what_is_validated_is_the_average(images, tmp_path):
    state = finetuning(settings=recipe(ema_decay=0.5))
    seen: list[nn.Module] = []
    data = TrainingImages(images, InstanceOrder(37, 0), 12, 8, Augmentation(crop_scale=(1, 1), flip=False), 0, 1)
    fit(
        state, data, classification(PIXELS, 0.0, state.model.branches), cosine(1e-3, 3), steps=3, steps_per_epoch=3.0,
        checkpoints=Checkpoints(tmp_path, "key", 1e9, print), log=Silent(), stop=Stop(), title="test",
        validate=lambda model: seen.append(model) or {}, validate_every=1,
    )  # fmt: skip
    assert seen == [state.ema] * 3
    assert state.kept is state.ema


def test_sgd_takes_the_steps_of_pytorchs(images, tmp_path):
    state = finetuning(torch.float64, settings=recipe(betas=None, **SGD))
    reference = finetuning(torch.float64)
    reference.optimizer = torch.optim.SGD(
        layer_decay_groups(reference.model, 5e-4, 0.8, decay_all=True), lr=0.0, momentum=0.9, nesterov=True,
        fused=False, foreach=False,
    )  # fmt: skip
    one = trained(images, tmp_path / "1", state=state, steps=10)
    other = trained(images, tmp_path / "2", state=reference, steps=10)
    assert_same(one.model, other.model, rtol=1e-12, atol=1e-12)


def test_accumulation_changes_nothing_for_batchnorm_whose_groups_stay_whole(images, tmp_path):
    settings = recipe(betas=None, ema_decay=0.9, **SGD)
    states = [
        trained(
            images, tmp_path / str(size), state=finetuning(torch.float64, CNN, settings), micro_batch=size, steps=10
        )
        for size in (None, 6)
    ]
    assert_same(states[0].model, states[1].model, rtol=1e-10, atol=1e-10)
    assert_same(states[0].kept, states[1].kept, rtol=1e-10, atol=1e-10)


# --- what is not finite -------------------------------------------------------------------------------------


def poisoned(at: set[int], kind: str, batch_size: int = 12) -> Objective:
    """The usual loss; at some steps (counted from 1) it, or its gradient alone, is not a finite number."""
    plain = classification(PIXELS, 0.1, 2)

    def objective(replica, batch):
        loss, metrics = plain(replica, batch)
        step = batch.first // batch_size + 1
        if step in at and kind == "loss":
            loss = loss * torch.inf
        elif step in at and kind == "shifted":
            loss = loss + torch.inf  # its slope is finite
        elif step in at:
            loss = loss + (0 * loss).sqrt()  # 0, with an infinite slope times 0
        return loss, metrics

    return objective


@pytest.mark.parametrize(
    ("kind", "words"), [("loss", "loss is not a finite number"), ("gradient", "gradient is not a finite number")]
)
def test_a_step_that_is_not_finite_is_named_and_no_checkpoint_holds_it(images, tmp_path, kind, words, monkeypatch):
    monkeypatch.setattr("mem.fit.LOGGED_POINTS", 3)  # a look every 8 steps
    with pytest.raises(UserError, match=rf"The {words}.* at step 11\. The last checkpoint is from before that"):
        trained(images, tmp_path, objective=poisoned({11, 13}, kind))
    monkeypatch.undo()
    with pytest.raises(UserError, match="at step 11"):
        trained(images, tmp_path / "saving", objective=poisoned({11, 13}, kind), every_seconds=0)
    newest = max((tmp_path / "saving" / "checkpoints").glob("*.pt"))
    assert newest.name == "step-000000010.pt"
    good = trained(images, tmp_path / "good", steps=10).model.state_dict()
    saved = torch.load(newest, weights_only=True)["model"]
    torch.testing.assert_close(saved, dict(good), rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["loss", "shifted", "gradient"])
@pytest.mark.parametrize("optimizer", [ADAMW, {**SGD, "betas": None}])
def test_a_step_that_is_skipped_leaves_no_trace(images, tmp_path, kind, optimizer):
    def state() -> TrainState:
        return finetuning(settings=recipe(ema_decay=0.9, **optimizer))

    # Step 1 is bad in one training; the other begins at step 2. What follows is the same, bit by bit.
    skipping = trained(
        images, tmp_path / "s", state=state(), objective=poisoned({1}, kind), steps=5, skip_nonfinite=True
    )
    without = state()
    without.step = 1
    trained(images, tmp_path / "w", state=without, steps=5)
    assert_same(skipping.model, without.model)
    assert_same(skipping.kept, without.kept)
    for one, other in zip(skipping.optimizer.state.values(), without.optimizer.state.values(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    logged = curve(tmp_path / "s")
    assert logged[0][1]["train/skipped"] == 1
    assert "train/loss" not in logged[0][1]
    assert all("train/skipped" not in metrics for _, metrics in logged[1:])


def test_means_are_those_of_the_steps_that_were_not_skipped(images, tmp_path, monkeypatch):
    monkeypatch.setattr("mem.fit.LOGGED_POINTS", 6)  # a point every 4 steps
    trained(images, tmp_path, objective=poisoned({2}, "loss"), skip_nonfinite=True)
    first = curve(tmp_path)[0][1]
    assert first["train/skipped"] == 1
    assert 1 < first["train/loss"] < 3


def test_a_training_that_skips_and_skips_ends(images, tmp_path):
    bad = set(range(3, 99))
    with pytest.raises(
        UserError, match=f"{SKIPPED_IN_A_ROW} steps in a row had to be skipped, the first bad one is step 3"
    ):
        trained(images, tmp_path, objective=poisoned(bad, "loss"), skip_nonfinite=True)


def test_a_training_that_skips_resumes_bit_by_bit(images, tmp_path):
    unbroken = trained(images, tmp_path / "u", objective=poisoned({4, 9}, "gradient"), skip_nonfinite=True)
    with pytest.raises(Stopped):
        trained(images, tmp_path / "b", objective=poisoned({4, 9}, "gradient"), skip_nonfinite=True, stop_after=4)
    resumed = trained(images, tmp_path / "b", objective=poisoned({4, 9}, "gradient"), skip_nonfinite=True)
    assert_same(resumed.model, unbroken.model)
    assert curve(tmp_path / "b") == curve(tmp_path / "u")


# --- what fits into a device, and compilation --------------------------------------------------------------


def test_micro_batches_are_halved_until_they_fit_on_every_rank():
    tried: list[int] = []

    def attempt(size: int) -> None:
        tried.append(size)
        if size > 13:
            raise torch.OutOfMemoryError("CUDA out of memory")

    assert fitting_micro_batch(attempt, 100, 1, lambda full: full) == 13
    assert tried == [100, 50, 25, 13]
    # Another rank has less memory left.
    assert fitting_micro_batch(attempt, 100, 1, lambda full: full or tried[-1] > 7) == 7
    assert fitting_micro_batch(attempt, 96, 12, lambda full: full) == 12
    with pytest.raises(UserError, match=r"Not even 16 image\(s\) at a time fit"):
        fitting_micro_batch(attempt, 64, 16, lambda full: full)


def test_an_error_that_is_not_about_memory_is_not_taken_for_one():
    def attempt(size: int) -> None:
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        fitting_micro_batch(attempt, 8, 1, lambda full: full)


def test_the_trial_for_a_micro_batch_leaves_no_trace(images, tmp_path, monkeypatch):
    from mem import fit as module

    plain = trained(images, tmp_path / "plain", state=sgd_on_a_cnn_with_averages(), micro_batch=6, steps=4)
    state = sgd_on_a_cnn_with_averages()
    said: list[str] = []
    usual = classification(PIXELS, 0.1, state.model.branches)

    def objective(replica, batch):
        if len(batch) > 6:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return usual(replica, batch)

    data = TrainingImages(images, InstanceOrder(37, 0), 12, 8, Augmentation(crop_scale=(0.4, 1.0), flip=True), 0, 1)
    mechanics = module._micro_batched(state, data, objective, Mechanics(), said.append)
    assert mechanics.micro_batch == 6
    assert said == ["12 images do not fit into the GPU's memory at once; they go through it by 6."]
    trained(images, tmp_path / "tried", state=state, micro_batch=mechanics.micro_batch, steps=4)
    assert_same(state.model, plain.model)


COMPILED = """
from pathlib import Path
import torch
from mem.data.beton import Beton
from tests.test_fit import assert_same, finetuning, trained

folder = Path("{folder}")
plain, compiled = (
    trained(Beton(folder / "train.beton"), folder / str(c), state=finetuning(torch.float64), steps=3, compile=c)
    for c in (False, True)
)
assert_same(compiled.model, plain.model, rtol=1e-9, atol=1e-9)
"""


def test_a_compiled_training_learns_the_same_to_rounding(images, tmp_path):
    # In a process of its own: torch.compile cannot see through the shape checks that tests put around functions.
    shutil.copy(images.path, tmp_path / "train.beton")
    run = [sys.executable, "-c", COMPILED.format(folder=tmp_path)]
    done = subprocess.run(run, cwd=REPOSITORY, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr


def test_a_loss_that_is_not_finite_stops_the_training_and_keeps_the_last_good_checkpoint(images, tmp_path):
    with pytest.raises(Stopped):
        trained(images, tmp_path, stop_after=5)
    before = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    with pytest.raises(UserError, match=r"is not a finite number.* at step \d+"):
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
