"""Backbone training on a converted dataset, shared by the stages `pretrain` and `finetune`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from mem import config, provenance
from mem.data.loading.images import TrainingImages
from mem.data.loading.samplers import InstanceSampler, PartSampler
from mem.data.loading.shard import RankShard
from mem.jobs.held_out import images_of
from mem.jobs.job import Job
from mem.models.flops import training_flops
from mem.models.pixels import Pixels
from mem.runs.image_settings import normalisation_of
from mem.train.loop import Validation, fit
from mem.train.schedules import Schedule, training_steps, warmup_cosine, warmup_steps
from mem.train.state import TrainState
from mem.train.step import Objective, StepOptions


@dataclass(frozen=True)
class BackboneInputs:
    """Description of the samples that a backbone is trained on."""

    augmentation: config.Augmentation
    side: int
    """Height and width of a sample, in pixels."""
    group_size: int = 1
    """Number of consecutive samples that must be on the same rank and in the same micro-batch."""
    flop_shapes: tuple[tuple[int, ...], ...] | None = None
    """Shapes of the model's inputs for one image. None means that the image is the only input."""


def pixels_of(job: Job) -> Pixels:
    """Return the pixel normalisation of a run."""
    mean, std = normalisation_of(job.run.settings, job.inputs["images"])
    return Pixels((mean[0], mean[1], mean[2]), (std[0], std[1], std[2]))


def fill_color_of(job: Job) -> tuple[int, int, int]:
    """Return the mean colour of a run's images, which fills the pixels that an augmentation leaves empty."""
    red, green, blue = (min(255, round(255 * mean)) for mean in pixels_of(job).mean)
    return red, green, blue


def train_backbone(
    job: Job,
    state: TrainState,
    objective: Objective,
    settings: config.Training,
    inputs: BackboneInputs,
    validate: Callable[[nn.Module], Mapping[str, float]] | None = None,
    validate_every_epochs: float = 0,
) -> dict[str, Any]:
    """Train on the run's training images of a converted dataset and return the results for run.json."""
    train = images_of(job, "train")
    steps_per_epoch = len(train) / settings.global_batch
    steps = training_steps(settings.epochs, len(train), settings.global_batch)
    data = TrainingImages(
        images=train.file,
        sampler=PartSampler(InstanceSampler(len(train), job.seed), train.positions),
        global_batch=settings.global_batch,
        side=inputs.side,
        augmentation=inputs.augmentation,
        seed=job.seed,
        workers=job.threads,
        shard=RankShard(job.world.rank, job.world.size),
        group_size=inputs.group_size,
        fill=fill_color_of(job),
    )
    shapes = inputs.flop_shapes or ((1, 3, inputs.side, inputs.side),)
    speed = fit(
        state,
        data,
        objective,
        Schedule(steps, steps_per_epoch, lr_schedule(settings, steps_per_epoch)),
        job.fit_context(),
        StepOptions(
            micro_batch=job.run.compute.micro_batch,
            clip_grad=settings.clip_grad,
            bf16=settings.precision == "bf16",
            compile=job.run.compute.compile,
            skip_nonfinite=settings.on_nonfinite == "skip",
            peak_images_per_s=peak_images_per_s(job, state.model, shapes),
        ),
        Validation(validate, round(validate_every_epochs * steps_per_epoch)) if validate else None,
    )
    return {
        "steps": steps,
        "images": steps * settings.global_batch,
        "images_per_s": round(speed.images_per_second, 1),
        "data_wait": round(speed.data_wait, 5),
        **({"peak_gpu_memory_gb": round(gpu, 3)} if (gpu := provenance.peak_gpu_memory_gb()) else {}),
        "parameters": sum(p.numel() for p in state.model.parameters() if p.requires_grad),
    }


def lr_schedule(settings: config.Training, steps_per_epoch: float) -> Callable[[int], float]:
    """Return the learning rate at each step: cosine decay, or `step_decay`."""
    if settings.step_decay is None:
        return warmup_cosine(settings.lr, settings.min_lr, settings.warmup_epochs, settings.epochs, steps_per_epoch)
    decay = (settings.step_decay.every_epochs, settings.step_decay.factor)
    return warmup_steps(settings.lr, settings.min_lr, settings.warmup_epochs, decay, steps_per_epoch)


def peak_images_per_s(job: Job, model: nn.Module, shapes: tuple[tuple[int, ...], ...]) -> float | None:
    """Return the throughput of all ranks (images/s) at `compute.peak_tflops`, or None without this setting."""
    peak = job.run.compute.peak_tflops
    return peak and peak * 1e12 * job.world.size / training_flops(model, *shapes)
