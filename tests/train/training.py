"""Small training runs for tests of the training loop."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from mem.config import Augmentation, Backbone, TimmNetwork, Training, VisionTransformer
from mem.data.beton.reader import Beton
from mem.data.loading.images import TrainingImages
from mem.data.loading.samplers import InstanceSampler
from mem.jobs.classification import Classification
from mem.models.backbones import build
from mem.models.parameter_groups import layer_decay_groups
from mem.models.pixels import Pixels
from mem.objectives.cross_entropy import CrossEntropy
from mem.tracking.log import JsonLines, read_events
from mem.train.checkpoints import Checkpoints
from mem.train.context import FitContext
from mem.train.loop import fit
from mem.train.optimizers import backbone_optimizer
from mem.train.schedules import Schedule, warmup_cosine
from mem.train.state import TrainState
from mem.train.step import Objective, StepOptions
from tests.beton_files import write_beton
from tests.key_biases import without_key_biases

BACKBONE = VisionTransformer(
    name="v", kind="vit", image_size=8, patch_size=4, width=16, depth=2, heads=2, center_crop=1.0
)
PIXELS = Pixels((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
STEPS = 24


class Stop:
    """Requests a stop after a number of steps, or a checkpoint after every step."""

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


def write_random_images(path: Path) -> Beton:
    """Write 37 images of 8 x 8 pixels in five classes."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (37, 8, 8, 3), dtype=np.uint8)
    write_beton(path, list(images), np.arange(37) % 5)
    return Beton(path)


ADAMW = {"optimizer": "adamw", "betas": (0.9, 0.999), "weight_decay": 0.05}
SGD = {"optimizer": "sgd", "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4, "decay_all": True}
CNN = TimmNetwork(name="c", kind="timm", model="resnet10t", image_size=8, norm_batch=6, center_crop=1.0)


def recipe(**changes) -> Training:
    common = {"epochs": 10, "warmup_epochs": 1, "global_batch": 12, "base_lr": 1e-3, "min_lr": 0, "precision": "fp32"}
    return Training(**{**common, **ADAMW, **changes})


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
    **options,
) -> TrainState:
    state = state or finetuning()
    augmentation = Augmentation(crop_scale=(0.4, 1.0), flip=True)
    data = TrainingImages(images, InstanceSampler(len(images), 0), global_batch, 8, augmentation, 0, workers)
    with JsonLines(folder / "log.jsonl") as log:
        fit(
            state,
            data,
            objective or _classification(state),
            Schedule(
                steps,
                37 / global_batch,
                warmup_cosine(lr, 0.0, 1.0, STEPS * global_batch / 37, 37 / global_batch),
            ),
            FitContext(
                "test",
                checkpoints=Checkpoints(folder / "checkpoints", "key", every_seconds, lambda text: None),
                log=log,
                stop=Stop(state, stop_after),
            ),
            StepOptions(micro_batch=micro_batch, **options),
        )
    return state


def _classification(state: TrainState) -> Classification:
    return Classification(replace(PIXELS, dtype=dtype_of(state)), CrossEntropy(5, 0.1), state.model.branches)


def dtype_of(state: TrainState) -> torch.dtype:
    return next(state.model.parameters()).dtype


def curve(folder: Path) -> list[tuple[int, dict[str, float]]]:
    """Return the logged metrics of each step, except metrics that depend on the clock."""
    return [
        (e["step"], {k: v for k, v in e["metrics"].items() if k not in ("train/images_per_s", "train/data_wait")})
        for e in read_events(folder / "log.jsonl")
        if e["event"] == "metrics"
    ]


def assert_same(one: nn.Module, other: nn.Module, **tolerance: float) -> None:
    """Check that two models have the same weights: bitwise without `tolerance`, and within `tolerance` otherwise.

    Comparisons within a tolerance exclude the biases of attention keys.
    """
    weights = [dict(model.state_dict()) for model in (one, other)]
    if tolerance:
        weights = [without_key_biases(each) for each in weights]
    torch.testing.assert_close(weights[0], weights[1], **(tolerance or {"rtol": 0, "atol": 0}))
