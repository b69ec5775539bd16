"""The training loop. Stages differ only in their objective, data and schedule."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from torch import nn

from mem import provenance
from mem.data.batch import Batch, on_device
from mem.errors import Stopped
from mem.models.batch_norm import configure_batch_norms
from mem.progress import Progress
from mem.train.context import FitContext
from mem.train.meters import FiniteWatch, Speed
from mem.train.micro_batch import Trial, find_micro_batch
from mem.train.schedules import Schedule
from mem.train.sizes import LOGGED_POINTS
from mem.train.state import TrainState
from mem.train.step import Objective, StepContext, StepOptions, train_step


@runtime_checkable
class TrainingData(Protocol):
    """Source of training batches that can start at any step."""

    @property
    def global_batch(self) -> int:
        """Number of samples per batch over all ranks."""
        ...

    def from_step(self, step: int, until: int) -> Iterator[Batch]:
        """Yield this rank's part of the batches `step` to `until - 1`."""
        ...


@dataclass(frozen=True)
class Validation:
    """Metrics to compute and log during training and at the end of training."""

    evaluate: Callable[[nn.Module], Mapping[str, float]]
    """Function that evaluates a model and returns metrics by name."""
    every_steps: int = 0
    """Number of steps between validations. With 0, validation runs only at the end of training."""


def fit(
    state: TrainState,
    data: TrainingData,
    objective: Objective,
    schedule: Schedule,
    context: FitContext,
    options: StepOptions | None = None,
    validation: Validation | None = None,
) -> Speed:
    """Train until the schedule ends, resuming from the newest checkpoint if there is one.

    Args:
        state: Model and optimizer, updated in place.
        data: The batches.
        objective: Computes the loss of a batch.
        schedule: Number of steps, learning rate, and whether training ends early.
        context: Processes, checkpoints, log and messages.
        options: Options for the computation of a step.
        validation: Metrics to compute and log during training.

    Raises:
        Stopped: A stop was requested. The state is saved.
        UserError: The loss or its gradient is not finite (the message contains the step), or the global batch cannot
            be divided into ranks, micro-batches or BatchNorm groups as configured.
    """
    options, world = options or StepOptions(), context.world
    configure_batch_norms(state.model, world, data.global_batch, options.micro_batch)
    context.log.event("training", steps=schedule.steps)
    if context.checkpoints.restore_latest(state):
        context.log.event("resumed", step=state.step)
        if world.is_main:
            context.checkpoints.warn(f"Resuming from the checkpoint at step {state.step} of {schedule.steps}.")
    if options.micro_batch is None and world.device.type == "cuda" and state.step < schedule.steps:
        batch = next(iter(data.from_step(state.step, state.step + 1))).to(world.device)
        trial = Trial(state, objective, batch, world, options.precision)
        options = replace(options, micro_batch=find_micro_batch(trial, context.checkpoints.warn))
        del batch, trial
    step_context = StepContext(world, data.global_batch, options, FiniteWatch(options.skip_nonfinite))
    replica = world.wrap(torch.compile(state.model) if options.compile else state.model)  # type: ignore[arg-type]
    replica.train()
    log_every = max(1, schedule.steps // LOGGED_POINTS)
    speed, recent_speed = Speed(), Speed()
    ready = time.monotonic()

    with (
        context.stop.deferred(),
        context.checkpoints,
        Progress(
            context.title,
            schedule.steps * data.global_batch,
            start=state.step * data.global_batch,
            quiet=context.quiet or not world.is_main,
        ) as progress,
    ):
        ended = schedule.ended(state.step, state.model)
        for batch in on_device(data.from_step(state.step, state.step if ended else schedule.steps), world.device):
            received = time.monotonic()
            train_step(state, replica, batch, objective, schedule.lr_at(state.step), step_context)
            progress.advance(data.global_batch)
            at_end = schedule.ended(state.step, state.model)
            # Steps run on a GPU after this thread has started them. Reading the metrics waits for them, so that their
            # time is counted.
            means = state.meter.read(context.world) if state.step % log_every == 0 or at_end else None
            now = time.monotonic()
            for period in (speed, recent_speed):
                period.count(data.global_batch, now - ready, received - ready)
            if means is not None:
                _log_training(means, state, schedule, context, step_context, recent_speed)
                recent_speed = Speed()
            if validation and (at_end or (validation.every_steps and state.step % validation.every_steps == 0)):
                context.log.scalars(validation.evaluate(state.evaluated_model), state.step)
                replica.train()
            _save_or_stop(state, schedule, context, step_context.watch)
            if at_end and state.step < schedule.steps:
                break
            ready = time.monotonic()
    return speed


def _log_training(
    means: dict[str, float],
    state: TrainState,
    schedule: Schedule,
    context: FitContext,
    step_context: StepContext,
    speed: Speed,
) -> None:
    """Log the mean metrics since the last logged point.

    Raises:
        UserError: Training cannot continue because of non-finite losses or gradients.
    """
    step_context.watch.check()
    means |= {"lr": schedule.lr_at(state.step - 1), "epoch": state.step / schedule.steps_per_epoch}
    means |= {"images_per_s": speed.images_per_second, "data_wait": speed.data_wait}
    if step_context.options.peak_images_per_s:
        means["mfu"] = speed.images_per_second / step_context.options.peak_images_per_s
    if gpu := provenance.peak_gpu_memory_gb():
        means["gpu_memory_gb"] = gpu
    context.log.scalars({f"train/{name}": value for name, value in means.items()}, state.step)


def _save_or_stop(state: TrainState, schedule: Schedule, context: FitContext, watch: FiniteWatch) -> None:
    """Start to write a checkpoint if one is due or requested. A requested checkpoint is on disk when this returns.

    Raises:
        Stopped: A stop was requested. The state is saved.
        OSError: A checkpoint could not be written.
        UserError: Training cannot continue because of non-finite losses or gradients. Nothing is saved.
    """
    asked = context.stop.take_save()
    epoch_ended = schedule.epoch_ends_at(state.step)
    due = state.step < schedule.steps and (asked or context.checkpoints.due(epoch_ended=epoch_ended))
    # Only rank 0 saves. If a non-finite value prevents saving, all ranks stop together.
    stopping = context.world.any(context.stop.requested or (due and watch.problem() is not None))
    if state.step < schedule.steps and (due or stopping):
        watch.check()
        context.checkpoints.save(state)
        if stopping:
            context.checkpoints.wait_on_all_ranks()
        elif asked:
            context.checkpoints.wait()
        if asked and context.world.is_main:
            context.stop.saved()
        if stopping:
            raise Stopped(f"Saved at step {state.step} of {schedule.steps} and stopped on request.")
