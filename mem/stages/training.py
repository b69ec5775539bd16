"""What the two stages that train a backbone share: data, schedule, mechanics, the figures for run.json."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from mem import config, provenance
from mem.data.beton import Beton
from mem.data.loaders import Slice, TrainingImages
from mem.data.order import InstanceOrder
from mem.fit import Mechanics, Objective, TrainState, fit
from mem.models.pixels import Pixels
from mem.runfolder import read_record
from mem.schedules import warmup_cosine
from mem.stages.job import Job


def pixels_of(images: Path) -> Pixels:
    """The normalisation that a converted data set asks for."""
    dataset = read_record(images)["settings"]["dataset"]
    return Pixels(tuple(dataset["pixel_mean"]), tuple(dataset["pixel_std"]))


def train_backbone(
    job: Job,
    state: TrainState,
    objective: Objective,
    settings: config.Training,
    augmentation: config.Augmentation,
    side: int,
    validate: Callable[[nn.Module], Mapping[str, float]] | None = None,
    validate_every_epochs: float = 0,
) -> dict[str, Any]:
    """Train on a data set's training split; returns the figures for run.json."""
    train = Beton(job.inputs["images"] / "train.beton")
    steps_per_epoch = len(train) / settings.global_batch
    steps = math.ceil(settings.epochs * steps_per_epoch)
    data = TrainingImages(
        images=train,
        order=InstanceOrder(len(train), job.seed),
        global_batch=settings.global_batch,
        side=side,
        augmentation=augmentation,
        seed=job.seed,
        workers=provenance.cpus(),
        slice=Slice(job.world.rank, job.world.size),
    )
    speed = fit(
        state,
        data,
        objective,
        warmup_cosine(settings.lr, settings.min_lr, settings.warmup_epochs, settings.epochs, steps_per_epoch),
        steps=steps,
        steps_per_epoch=steps_per_epoch,
        checkpoints=job.checkpoints(),
        log=job.log,
        stop=job.stop,
        title=job.run.title,
        mechanics=Mechanics(
            job.world, job.run.compute.micro_batch, settings.clip_grad, bf16=settings.precision == "bf16"
        ),
        validate=validate,
        validate_every=round(validate_every_epochs * steps_per_epoch),
    )
    return {
        "steps": steps,
        "images": steps * settings.global_batch,
        "images_per_s": round(speed.images_per_second, 1),
        "data_wait": round(speed.data_wait, 5),
        **({"peak_gpu_memory_gb": round(gpu, 3)} if (gpu := provenance.peak_gpu_memory_gb()) else {}),
        "parameters": sum(p.numel() for p in state.model.parameters() if p.requires_grad),
    }
