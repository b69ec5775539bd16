"""The one training loop. Stages differ in objective, data and schedule."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any, NotRequired, Protocol, TypedDict, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mem import provenance
from mem.data.loading.batch import Batch
from mem.distributed import ALONE, World
from mem.errors import Stopped
from mem.models.batch_norm import (
    configure_batch_norms,
    discard_batch_norm_statistics,
    norm_granule,
    update_batch_norm_statistics,
)
from mem.progress import Progress
from mem.tracking.log import Log
from mem.train.checkpoints import Checkpoints
from mem.train.meters import FiniteWatch, Meter, Speed
from mem.train.micro_batch import fitting_micro_batch
from mem.train.optimizers import averaged_copy, set_lr, skip_step_where, update_average

LOGGED_POINTS = 400
"""Points that a training's curves have, about."""


class Snapshot(TypedDict):
    """Everything that a resumed training needs; every random draw is a function of the step."""

    model: dict[str, Tensor]
    optimizer: dict[str, Any]
    step: int
    meter: dict[str, Any]
    ema: NotRequired[dict[str, Tensor]]


@dataclass
class TrainState:
    """What training changes."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    ema_decay: float | None = None
    """Share of the averaged weights that each step keeps; without it nothing is averaged."""
    step: int = 0
    meter: Meter = field(default_factory=Meter)
    ema: nn.Module | None = None
    """The averaged weights (Polyak & Juditsky 1992), made where there is an `ema_decay`."""

    def __post_init__(self) -> None:
        if self.ema_decay is not None:
            self.ema = averaged_copy(self.model)

    @property
    def kept(self) -> nn.Module:
        """The model that is evaluated and saved: the averaged one where there is one."""
        return self.model if self.ema is None else self.ema

    def snapshot(self) -> Snapshot:
        """Everything there is to restore."""
        found: Snapshot = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "meter": {"sums": self.meter.sums, "steps": self.meter.steps},
        }
        if self.ema is not None:
            found["ema"] = self.ema.state_dict()
        return found

    def restore(self, snapshot: Snapshot) -> None:
        """Become what `snapshot` describes."""
        self.model.load_state_dict(snapshot["model"])
        self.optimizer.load_state_dict(snapshot["optimizer"])
        if self.ema is not None:
            self.ema.load_state_dict(snapshot["ema"])  # type: ignore[typeddict-item]
        self.step = snapshot["step"]
        device = next(self.model.parameters()).device
        self.meter = Meter(
            {name: value.to(device) for name, value in snapshot["meter"]["sums"].items()},
            snapshot["meter"]["steps"],
        )


Objective = Callable[[nn.Module, Batch], tuple[Float[Tensor, ""], Mapping[str, Tensor]]]
"""From a replica of the model and a batch to the loss, a mean over the batch's samples, and metrics, likewise."""


@runtime_checkable
class TrainingData(Protocol):
    """Batches from any step on."""

    @property
    def global_batch(self) -> int:
        """Samples of a batch, over all ranks."""
        ...

    def from_step(self, step: int, until: int) -> Iterator[Batch]:
        """This rank's part of the batches `step` to `until - 1`."""
        ...


@runtime_checkable
class StopRequests(Protocol):
    """What the outside asks of a training; see `mem.jobs.signals`."""

    def take_save(self) -> bool:
        """Whether a checkpoint was asked for since the last time."""
        ...

    def saved(self) -> None:
        """Say that the checkpoint that was asked for is on disk."""
        ...

    @property
    def requested(self) -> bool:
        """Whether to save and stop."""
        ...

    def deferred(self) -> AbstractContextManager[None]:
        """While inside, a request waits to be seen here; outside it is raised at once."""
        ...


class NeverStop:
    """Nobody asks for anything: for a training within one's own program, which Ctrl-C ends as ever."""

    requested = False

    def take_save(self) -> bool:
        """Never."""
        return False

    def saved(self) -> None:
        """Nobody waits for it."""

    def deferred(self) -> AbstractContextManager[None]:
        """Defer nothing."""
        return contextlib.nullcontext()


@dataclass(frozen=True)
class StepOptions:
    """How a step is computed."""

    world: World = ALONE
    micro_batch: int | None = None
    """Images that go through a device at once; on a GPU, None finds the largest number that fits."""
    clip_grad: float | None = None
    bf16: bool = False
    compile: bool = False
    """Whether torch.compile is used: other rounding, another speed."""
    peak_images_per_s: float | None = None
    """Images a second of all devices together if they did nothing but the model's arithmetic; for the curve `mfu`."""
    skip_nonfinite: bool = False
    """Whether a step whose gradient is not finite is left out; otherwise it ends the training."""
    quiet: bool = False
    """Whether no progress is shown."""


def fit(
    state: TrainState,
    data: TrainingData,
    objective: Objective,
    lr_at: Callable[[int], float],
    *,
    steps: int,
    steps_per_epoch: float,
    checkpoints: Checkpoints,
    log: Log,
    stop: StopRequests,
    title: str,
    mechanics: StepOptions | None = None,
    validate: Callable[[nn.Module], Mapping[str, float]] | None = None,
    validate_every: int = 0,
) -> Speed:
    """Train until `steps`, continuing from the newest checkpoint if there is one.

    Args:
        state: Model and optimizer; changed in place.
        data: Gives the batches.
        objective: The loss of a batch.
        lr_at: Learning rate of a step, before a group's own scale.
        steps: When to end.
        steps_per_epoch: For the checkpoints at epochs' ends.
        checkpoints: Where to continue from and save to.
        log: Takes the curves.
        stop: Asked before every step whether to save or to stop.
        title: What the progress bar says.
        mechanics: How a step is computed.
        validate: Metrics of the model, logged every `validate_every` steps and at the end.
        validate_every: Steps between validations.

    Raises:
        Stopped: A stop was asked for; the state is saved.
        UserError: The loss or its gradient is not finite; the step is named. Or the batch cannot be cut as asked.
    """
    mechanics = mechanics or StepOptions()
    world = mechanics.world
    configure_batch_norms(state.model, world, data.global_batch, mechanics.micro_batch)
    log.event("training", steps=steps)
    if checkpoints.restore_latest(state):
        log.event("resumed", step=state.step)
        if world.is_main:
            checkpoints.warn(f"Going on from the checkpoint at step {state.step} of {steps}.")
    if mechanics.micro_batch is None and world.device.type == "cuda" and state.step < steps:
        mechanics = _micro_batched(state, data, objective, mechanics, checkpoints.warn)
    watch = FiniteWatch(mechanics.skip_nonfinite)
    replica = world.wrap(torch.compile(state.model) if mechanics.compile else state.model)  # type: ignore[arg-type]
    replica.train()
    log_every = max(1, steps // LOGGED_POINTS)
    speed, window = Speed(), Speed()
    ready = time.monotonic()

    with (
        stop.deferred(),
        Progress(
            title,
            steps * data.global_batch,
            start=state.step * data.global_batch,
            quiet=mechanics.quiet or not world.is_main,
        ) as progress,
    ):
        for batch in data.from_step(state.step, steps):
            received = time.monotonic()
            lr = lr_at(state.step)
            train_step(state, replica, batch, objective, lr, data.global_batch, mechanics, watch)
            progress.advance(data.global_batch)
            now = time.monotonic()
            for period in (speed, window):
                period.count(data.global_batch, now - ready, received - ready)

            if state.step % log_every == 0 or state.step == steps:
                means = state.meter.read(world)
                watch.check()
                means |= {"lr": lr, "epoch": state.step / steps_per_epoch}
                means |= {"images_per_s": window.images_per_second, "data_wait": window.data_wait}
                if mechanics.peak_images_per_s:
                    means["mfu"] = window.images_per_second / mechanics.peak_images_per_s
                if gpu := provenance.peak_gpu_memory_gb():
                    means["gpu_memory_gb"] = gpu
                log.scalars({f"train/{name}": value for name, value in means.items()}, state.step)
                window = Speed()
            if validate and (state.step == steps or (validate_every and state.step % validate_every == 0)):
                log.scalars(validate(state.kept), state.step)
                replica.train()

            epoch_ended = math.floor(state.step / steps_per_epoch) > math.floor((state.step - 1) / steps_per_epoch)
            asked = stop.take_save()
            due = state.step < steps and (asked or checkpoints.due(epoch_ended=epoch_ended))
            # Rank 0 alone saves. Where it must not, because something is not finite, all ranks end together.
            stopping = world.any(stop.requested or (due and watch.trouble() is not None))
            if state.step < steps and (due or stopping):
                watch.check()
                checkpoints.save(state)
                if asked and world.is_main:
                    stop.saved()
                if stopping:
                    raise Stopped(f"Saved at step {state.step} of {steps} and stopped, as asked.")
            ready = time.monotonic()
    return speed


def train_step(
    state: TrainState,
    replica: nn.Module,
    batch: Batch,
    objective: Objective,
    lr: float,
    global_batch: int,
    mechanics: StepOptions,
    watch: FiniteWatch,
) -> None:
    """One optimizer step on one global batch, of which `batch` is this rank's part.

    The gradient is the mean over the global batch's samples, however they are spread over ranks and micro-batches.
    """
    world = mechanics.world
    set_lr(state.optimizer, lr)
    state.optimizer.zero_grad(set_to_none=True)
    totals: dict[str, Tensor] = {}
    bad_loss = torch.zeros((), dtype=torch.bool, device=world.device)
    parts = list(batch.to(world.device).split(mechanics.micro_batch))
    for i, part in enumerate(parts):
        last = i == len(parts) - 1
        with torch.autocast(world.device.type, torch.bfloat16, enabled=mechanics.bf16):
            loss, metrics = objective(replica, part)
        # The replica averages over ranks, so the ranks' shares add up to the mean over the global batch.
        share = len(part) * world.size / global_batch
        # A loss that is not finite may yet have a finite gradient (through a clamp, say). Times NaN it has none, and so
        # every rank learns of it with the gradient.
        finite = loss.detach().isfinite()
        weight = torch.where(finite, torch.full_like(loss, share, requires_grad=False), torch.nan)
        with contextlib.nullcontext() if last else world.without_sync(replica):
            (loss * weight).backward()
        bad_loss = bad_loss | ~finite
        for name, value in {"loss": loss, **metrics}.items():
            totals[name] = totals.get(name, torch.zeros((), device=world.device)) + value.detach() * share
    parameters = [p for group in state.optimizer.param_groups for p in group["params"] if p.grad is not None]
    norm = nn.utils.get_total_norm([p.grad for p in parameters])
    if mechanics.clip_grad is not None:
        nn.utils.clip_grads_with_norm_(parameters, mechanics.clip_grad, norm)
    bad = ~norm.isfinite()
    watch.see(state.step + 1, bad, bad_loss)
    totals["grad_norm"] = norm
    skipped = bad if mechanics.skip_nonfinite else None
    if skipped is not None:
        totals = {name: torch.where(skipped, 0.0, value) for name, value in totals.items()}
        totals["skipped"] = skipped
        skip_step_where(state.optimizer, skipped)
    state.optimizer.step()
    update_batch_norm_statistics(state.model, world, skipped)
    if state.ema is not None and state.ema_decay is not None:
        update_average(state.ema, state.model, state.ema_decay, skipped)
    state.step += 1
    state.meter.add(totals)


def _micro_batched(
    state: TrainState, data: TrainingData, objective: Objective, mechanics: StepOptions, say: Callable[[str], None]
) -> StepOptions:
    """The mechanics with a micro-batch that fits into the device's memory. The trial leaves no trace."""
    world = mechanics.world
    batch = next(iter(data.from_step(state.step, state.step + 1))).to(world.device)
    # What the optimizer, and the exchange between ranks, have not taken yet.
    copies = 0 if state.optimizer.state else 2
    reserved = (copies + (world.size > 1)) * sum(p.numel() * p.element_size() for p in state.model.parameters())
    state.model.train()

    def attempt(size: int) -> None:
        ballast = torch.empty(reserved, dtype=torch.uint8, device=world.device)
        try:
            part = next(batch.split(size))
            for _ in range(2):  # the second time with a gradient there already, as in accumulation
                with torch.autocast(world.device.type, torch.bfloat16, enabled=mechanics.bf16):
                    loss, _ = objective(state.model, part)
                loss.backward()
        finally:
            del ballast
            state.optimizer.zero_grad(set_to_none=True)
            discard_batch_norm_statistics(state.model)

    granule = norm_granule(state.model, len(batch))
    size = fitting_micro_batch(attempt, len(batch), granule, world.any)
    if size < len(batch) and world.is_main:
        say(f"{len(batch)} images do not fit into the GPU's memory at once; they go through it by {size}.")
    return replace(mechanics, micro_batch=size)
