"""Backbone training on a converted dataset, shared by the stages `pretrain` and `finetune`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from mem import config, provenance
from mem.data.loading.finetuning_samplers import build_finetuning_sampler
from mem.data.loading.images import TrainingImages
from mem.data.loading.samplers import PartSampler
from mem.data.loading.shard import RankShard
from mem.data.loading.split_images import SplitImages
from mem.errors import UserError
from mem.jobs.held_out import images_of
from mem.jobs.job import Job
from mem.jobs.precision import precision_of, precision_record
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
    sampler: str = "instance"
    """Name of the sampler; see `mem.config.Finetune.sampler`."""
    undivided: bool = False
    """Whether a rank must process its part of a batch at once, without micro-batches."""
    second_augmentation: config.Augmentation | None = None
    """Augmentation of the second view of each image. None if each image has one view."""
    flop_shapes: tuple[tuple[int, ...], ...] | None = None
    """Shapes of the model's inputs for one image. None means that the views of the image are the only inputs."""


def pixels_of(job: Job) -> Pixels:
    """Return the pixel normalisation of a run."""
    mean, std = normalisation_of(job.run.settings, job.inputs["images"])
    return Pixels((mean[0], mean[1], mean[2]), (std[0], std[1], std[2]))


def fill_color_of(job: Job) -> tuple[int, int, int]:
    """Return the mean colour of a run's images, which fills the pixels that an augmentation leaves empty."""
    red, green, blue = (min(255, round(255 * mean)) for mean in pixels_of(job).mean)
    return red, green, blue


def training_images(
    job: Job, train: SplitImages, inputs: BackboneInputs, steps: int, global_batch: int
) -> TrainingImages:
    """Return this rank's batches of training images.

    Args:
        job: The job, whose seed determines the samples.
        train: The training images.
        inputs: Description of the samples.
        steps: Number of batches.
        global_batch: Number of samples per batch, over all ranks.

    Raises:
        UserError: There are more ranks than samples, or groups of samples, in a batch.
    """
    _require_samples_of_ranks(global_batch, inputs.group_size, job.world.size)
    sampler = build_finetuning_sampler(inputs.sampler, train.labels, job.seed, steps * global_batch)
    return TrainingImages(
        images=train.file,
        sampler=PartSampler(sampler, train.positions),
        global_batch=global_batch,
        side=inputs.side,
        augmentation=inputs.augmentation,
        seed=job.seed,
        workers=job.threads,
        shard=RankShard(job.world.rank, job.world.size),
        group_size=inputs.group_size,
        fill=fill_color_of(job),
        second_augmentation=inputs.second_augmentation,
    )


def _require_samples_of_ranks(global_batch: int, group_size: int, ranks: int) -> None:
    """Check that every rank has a part of each batch. A rank without samples would not take part in the exchange.

    Raises:
        UserError: There are more ranks than samples, or groups of samples, in a batch.
    """
    groups = -(-global_batch // group_size)
    if groups < ranks:
        of_samples = "" if group_size == 1 else f", in {groups} groups of {group_size} that are mixed with each other,"
        raise UserError(
            f"global_batch: {global_batch} samples{of_samples} are too few for {ranks} ranks, each of which requires a "
            "part of the batch. Use fewer GPUs or a larger global_batch."
        )


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
    precision = precision_of(job, settings.precision)
    record = precision_record(job, settings.precision, precision)
    train = images_of(job, "train")
    steps_per_epoch = len(train) / settings.global_batch
    steps = training_steps(settings.epochs, len(train), settings.global_batch)
    data = training_images(job, train, inputs, steps, settings.global_batch)
    views = 1 if inputs.second_augmentation is None else 2
    shapes = inputs.flop_shapes or ((1, 3, inputs.side, inputs.side),) * views
    rank_batch = settings.global_batch // job.world.size
    with _memory_message(inputs.undivided, rank_batch):
        speed = fit(
            state,
            data,
            objective,
            Schedule(steps, steps_per_epoch, lr_schedule(settings, steps_per_epoch)),
            job.fit_context(),
            StepOptions(
                micro_batch=rank_batch if inputs.undivided else job.run.compute.micro_batch,
                clip_grad=settings.clip_grad,
                precision=precision,
                compile=job.run.compute.compile,
                skip_nonfinite=settings.on_nonfinite == "skip",
                peak_images_per_s=peak_images_per_s(job, state.model, shapes),
            ),
            Validation(validate, _validation_steps(validate_every_epochs, steps_per_epoch)) if validate else None,
        )
    return {
        **record,
        "steps": steps,
        "images": steps * settings.global_batch,
        "images_per_s": round(speed.images_per_second, 1),
        "data_wait": round(speed.data_wait, 5),
        **({"peak_gpu_memory_gb": round(gpu, 3)} if (gpu := provenance.peak_gpu_memory_gb()) else {}),
        "parameters": sum(p.numel() for p in state.model.parameters() if p.requires_grad),
    }


def _validation_steps(every_epochs: float, steps_per_epoch: float) -> int:
    """Return the number of steps between validations: at least 1, or 0 for one validation at the end of training."""
    return max(1, round(every_epochs * steps_per_epoch)) if every_epochs else 0


@contextmanager
def _memory_message(undivided: bool, batch: int) -> Iterator[None]:
    """Explain a lack of GPU memory if the batch of a rank cannot be divided into micro-batches.

    Raises:
        UserError: `batch` images do not fit into the GPU's memory, and the objective requires all of them at once.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        if not undivided:
            raise
        raise UserError(
            f"{batch} images do not fit into the GPU's memory at once, but the objective of finetuning requires the "
            "complete global batch. Use more GPUs, a smaller global_batch, precision bf16, or "
            "compute.finetune.recompute_activations."
        ) from None


def lr_schedule(settings: config.Training, steps_per_epoch: float) -> Callable[[int], float]:
    """Return the learning rate at each step: cosine decay, or `step_decay`."""
    if settings.step_decay is None:
        return warmup_cosine(settings.lr, settings.min_lr, settings.warmup_epochs, settings.epochs, steps_per_epoch)
    decay = (settings.step_decay.steps, settings.step_decay.factor)
    return warmup_steps(settings.lr, settings.min_lr, settings.warmup_epochs, decay, steps_per_epoch)


def peak_images_per_s(job: Job, model: nn.Module, shapes: tuple[tuple[int, ...], ...]) -> float | None:
    """Return the throughput of all ranks (images/s) at `compute.peak_tflops`, or None without this setting."""
    peak = job.run.compute.peak_tflops
    return peak and peak * 1e12 * job.world.size / training_flops(model, *shapes)
