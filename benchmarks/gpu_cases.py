"""The cases of benchmarks/gpu.py: trainings and feature extraction with mem's own models, steps and loops."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mem import config
from mem.config.load import load_study
from mem.data.augment.mixing import PAIR
from mem.data.batch import Batch, on_device
from mem.distributed import World
from mem.jobs.backbones import move_to_device
from mem.jobs.classification import Classification
from mem.jobs.frozen_features import feature_function, in_main_memory
from mem.models.backbones import BackboneClassifier, build
from mem.models.flops import forward_flops, training_flops
from mem.models.mae import build_autoencoder
from mem.models.parameter_groups import decay_groups, layer_decay_groups
from mem.models.pixels import Pixels
from mem.objectives.build import build_objective
from mem.stages.finetune import mixing_of
from mem.stages.pretrain import reconstruction
from mem.train.context import FitContext
from mem.train.loop import TrainingData, fit
from mem.train.meters import Speed
from mem.train.optimizers import backbone_optimizer
from mem.train.schedules import Schedule
from mem.train.state import TrainState
from mem.train.step import Objective, StepOptions

PIXELS = Pixels((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLASSES = 1000
WARM_UP_STEPS = 3
STUDIES = Path(__file__).parents[1] / "config" / "paper"


@dataclass(frozen=True)
class Case:
    """A stage with a model of the paper's recipes for ImageNet-LT."""

    stage: str
    study: str
    """File in config/paper, without its suffix."""
    batch: int
    """Images per step, and per forward pass if they fit into memory."""

    @property
    def name(self) -> str:
        """Stage and model, for example `pretrain vit_base`."""
        return f"{self.stage} {self.study.removeprefix('imagenet_lt_')}"


CASES = (
    Case("pretrain", "imagenet_lt_vit_base", 512),
    Case("features", "imagenet_lt_vit_base", 256),
    Case("finetune", "imagenet_lt_vit_base", 256),
    Case("pretrain", "imagenet_lt_vit_large", 256),
    Case("pretrain", "imagenet_lt_convmae_base", 256),
    Case("finetune", "imagenet_lt_resnext50", 256),
)
"""The cases, most important first. Each runs eagerly and compiled."""


@dataclass
class Workload:
    """A training that is ready to run."""

    state: TrainState
    objective: Objective
    flops: int
    """FLOPs of the forward and backward pass of one image."""


def study_of(case: Case, quick: bool) -> config.Study:
    """Return the study of a case; with `quick`, with a tiny model of the same kind."""
    study = load_study([STUDIES / f"{case.study}.yaml"])
    if not quick:
        return study
    tiny: dict[str, Any] = {"image_size": 32}
    if study.backbone.kind == "vit":
        tiny |= {"width": 32, "depth": 1, "heads": 2}
    elif study.backbone.kind == "convmae":
        tiny |= {"widths": (16, 16, 32), "depths": (1, 1, 1), "heads": 2}
    else:
        tiny |= {"model": "resnet10t", "norm_batch": 4}
    changed: dict[str, Any] = {"backbone": study.backbone.model_copy(update=tiny)}
    if study.pretrain is not None:
        decoder = config.Decoder(width=16, depth=1, heads=2)
        changed["pretrain"] = study.pretrain.model_copy(update={"decoder": decoder})
    return study.model_copy(update=changed)


def workload(case: Case, study: config.Study, device: torch.device, batch: int) -> Workload:
    """Build the model and the optimizer of a training as the stages do."""
    backbone: Any = study.backbone
    side = backbone.image_size
    if case.stage == "pretrain":
        settings = study.pretrain
        assert settings is not None
        model: Any = build_autoencoder(backbone, settings)
        groups = decay_groups(model, settings.weight_decay, decay_all=settings.decay_all)
        objective = reconstruction(PIXELS, model.grid**2)
        shapes: tuple[tuple[int, ...], ...] = ((1, 3, side, side), (1, model.grid**2))
    else:
        settings = study.finetune
        assert settings is not None
        if getattr(backbone, "norm_batch", None) is not None:
            backbone = backbone.model_copy(update={"norm_batch": math.gcd(backbone.norm_batch, batch)})
        model = build(backbone, CLASSES, settings.drop_path)
        groups = layer_decay_groups(model, settings.weight_decay, settings.layer_decay, decay_all=settings.decay_all)
        erasing, mixing = settings.augmentation.erasing, mixing_of(settings)
        loss = build_objective(settings, np.ones(CLASSES, dtype=np.int64))
        objective = Classification(PIXELS, loss, model.branches, erasing, mixing)
        shapes = ((1, 3, side, side),)
    flops = training_flops(model, *shapes)
    move_to_device(model, device, getattr(study.compute, case.stage), backbone.name)
    state = TrainState(model, backbone_optimizer(groups, settings), settings.ema_decay)
    return Workload(state, objective, flops)


class TimedBatches:
    """Random images in main memory, which the loop gets without loading. Steps are timed between the batches."""

    def __init__(self, device: torch.device, batch: int, side: int, seconds: float) -> None:
        self.device, self.global_batch, self.seconds = device, batch, seconds
        self.elapsed = 0.0
        self.steps = 0
        generator = np.random.default_rng(0)
        images = torch.from_numpy(generator.integers(0, 256, (batch, side, side, 3), dtype=np.uint8))
        self._images = images.pin_memory() if device.type == "cuda" else images
        self._labels = torch.from_numpy(generator.integers(0, CLASSES, batch))

    def from_step(self, step: int, until: int) -> Iterator[Batch]:
        """Yield batches for a few steps of warm-up, and then for about `seconds`."""
        for number in range(WARM_UP_STEPS):
            yield self._batch(step + number)
        # The duration of two steps determines how many steps are timed, because a look at the clock waits for the GPU.
        before = self._now()
        for number in range(2):
            yield self._batch(step + WARM_UP_STEPS + number)
        began = self._now()
        self.steps = min(until, max(2, round(self.seconds / max(1e-6, (began - before) / 2))))
        for number in range(self.steps):
            yield self._batch(step + WARM_UP_STEPS + 2 + number)
        self.elapsed = self._now() - began

    @property
    def images_per_second(self) -> float:
        """Images per second over the timed steps."""
        return self.steps * self.global_batch / self.elapsed

    def _batch(self, step: int) -> Batch:
        return Batch(self._images, self._labels, step * self.global_batch, 0, PAIR)

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def train(
    work: Workload, data: TrainingData, device: torch.device, options: StepOptions, steps: int = 1_000_000
) -> tuple[Speed, list[str]]:
    """Train with mem's loop. Return its speed, and its messages, such as that about a smaller micro-batch."""
    messages: list[str] = []
    context = FitContext("benchmark", World(device=device), quiet=True)
    context.checkpoints.warn = messages.append
    work.state.step = 0
    return fit(work.state, data, work.objective, Schedule(steps, 1e9, lambda step: 1e-5), context, options), messages


def extract(study: config.Study, device: torch.device, data: TimedBatches, *, compiled: bool) -> int:
    """Compute pooled features as the stage `features` does. Return the FLOPs per image."""
    backbone: Any = study.backbone
    model = build(backbone, CLASSES)
    flops = forward_flops(model, (1, 3, backbone.image_size, backbone.image_size))
    model = move_to_device(model, device, study.compute.features, backbone.name).eval()
    assert isinstance(model, BackboneClassifier)
    compute = feature_function(model, PIXELS, "bf16", compiled=compiled)

    def results(batches: Iterable[Batch]) -> Iterator[tuple[None, dict[str, torch.Tensor]]]:
        for batch in on_device(batches, device):
            yield None, {"pooled": compute(batch.inputs)[0]}

    with torch.inference_mode():
        for _ in in_main_memory(results(data.from_step(0, 1_000_000))):
            pass
    return flops
