"""The one training loop. Stages differ in objective, data and schedule."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypedDict, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mem.checkpoints import Checkpoints
from mem.data.batch import Batch
from mem.distributed import ALONE, World
from mem.errors import Stopped, UserError
from mem.optim import set_lr
from mem.progress import Progress
from mem.tracking.log import Log

LOGGED_POINTS = 400
"""Points that a training's curves have, about."""


class Snapshot(TypedDict):
    """Everything that a resumed training needs; every random draw is a function of the step."""

    model: dict[str, Tensor]
    optimizer: dict[str, Any]
    step: int
    meter: dict[str, Any]


@dataclass
class Meter:
    """Means of metrics since the last reading, summed on the device so that no step waits for it."""

    sums: dict[str, Tensor] = field(default_factory=dict)
    steps: int = 0

    def add(self, metrics: Mapping[str, Tensor]) -> None:
        """Count one step's metrics."""
        self.steps += 1
        for name, value in metrics.items():
            value = value.detach().float()
            self.sums[name] = self.sums[name] + value if name in self.sums else value

    def finite(self) -> bool:
        """Whether every sum is a finite number. Waits for the device."""
        return all(bool(value.isfinite()) for value in self.sums.values())

    def read(self, world: World) -> dict[str, float]:
        """Means over the steps and ranks; starts anew. Waits for the device."""
        if not self.steps:
            return {}
        names = sorted(self.sums)
        means = world.mean(torch.stack([self.sums[name] for name in names]) / self.steps).tolist()
        self.sums, self.steps = {}, 0
        return dict(zip(names, means, strict=True))


@dataclass
class TrainState:
    """What training changes."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    step: int = 0
    meter: Meter = field(default_factory=Meter)

    def snapshot(self) -> Snapshot:
        """Everything there is to restore."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "meter": {"sums": self.meter.sums, "steps": self.meter.steps},
        }

    def restore(self, snapshot: Snapshot) -> None:
        """Become what `snapshot` describes."""
        self.model.load_state_dict(snapshot["model"])
        self.optimizer.load_state_dict(snapshot["optimizer"])
        self.step = snapshot["step"]
        device = next(self.model.parameters()).device
        self.meter = Meter(
            {name: value.to(device) for name, value in snapshot["meter"]["sums"].items()},
            snapshot["meter"]["steps"],
        )


Objective = Callable[[nn.Module, Batch], tuple[Float[Tensor, ""], Mapping[str, Tensor]]]
"""From a replica of the model and a batch to the loss, a mean over the batch's samples, and metrics, likewise."""


@runtime_checkable
class Data(Protocol):
    """Batches from any step on."""

    @property
    def global_batch(self) -> int:
        """Samples of a batch, over all ranks."""
        ...

    def from_step(self, step: int, until: int) -> Iterator[Batch]:
        """This rank's part of the batches `step` to `until - 1`."""
        ...


@runtime_checkable
class Stop(Protocol):
    """What the outside asks of a training; see `mem.stages.signals`."""

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


@dataclass(frozen=True)
class Mechanics:
    """How a step is computed; nothing here changes what it computes, but for rounding."""

    world: World = ALONE
    micro_batch: int | None = None
    clip_grad: float | None = None
    bf16: bool = False


@dataclass
class Speed:
    """How fast a training went since it was (re)started."""

    images: int = 0
    seconds: float = 0.0
    waited: float = 0.0

    def count(self, images: int, seconds: float, waited: float) -> None:
        """Add a step."""
        self.images += images
        self.seconds += seconds
        self.waited += waited

    @property
    def images_per_second(self) -> float:
        """Over all ranks."""
        return self.images / self.seconds if self.seconds else 0.0

    @property
    def data_wait(self) -> float:
        """Share of the time that rank 0 waited for its data."""
        return self.waited / self.seconds if self.seconds else 0.0


def fit(
    state: TrainState,
    data: Data,
    objective: Objective,
    lr_at: Callable[[int], float],
    *,
    steps: int,
    steps_per_epoch: float,
    checkpoints: Checkpoints,
    log: Log,
    stop: Stop,
    title: str,
    mechanics: Mechanics | None = None,
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
        UserError: The loss is not finite; the step is named.
    """
    mechanics = mechanics or Mechanics()
    world = mechanics.world
    log.event("training", steps=steps)
    if checkpoints.restore_latest(state):
        log.event("resumed", step=state.step)
        if world.is_main:
            checkpoints.warn(f"Going on from the checkpoint at step {state.step} of {steps}.")
    replica = world.wrap(state.model)
    replica.train()
    log_every = max(1, steps // LOGGED_POINTS)
    speed, window = Speed(), Speed()
    ready = time.monotonic()

    with (
        stop.deferred(),
        Progress(
            title, steps * data.global_batch, start=state.step * data.global_batch, quiet=not world.is_main
        ) as progress,
    ):
        for batch in data.from_step(state.step, steps):
            received = time.monotonic()
            lr = lr_at(state.step)
            train_step(state, replica, batch, objective, lr, data.global_batch, mechanics)
            progress.advance(data.global_batch)
            now = time.monotonic()
            for period in (speed, window):
                period.count(data.global_batch, now - ready, received - ready)

            if state.step % log_every == 0 or state.step == steps:
                means = state.meter.read(world)
                if not math.isfinite(means["loss"]):
                    raise _diverged(state.step, log_every)
                means |= {"lr": lr, "epoch": state.step / steps_per_epoch}
                means |= {"images_per_s": window.images_per_second, "data_wait": window.data_wait}
                log.scalars({f"train/{name}": value for name, value in means.items()}, state.step)
                window = Speed()
            if validate and (state.step == steps or (validate_every and state.step % validate_every == 0)):
                log.scalars(validate(state.model), state.step)
                replica.train()

            epoch_ended = math.floor(state.step / steps_per_epoch) > math.floor((state.step - 1) / steps_per_epoch)
            stopping = world.any(stop.requested)
            if state.step < steps:
                asked = stop.take_save()
                if asked or stopping or checkpoints.due(epoch_ended=epoch_ended):
                    if not state.meter.finite():
                        raise _diverged(state.step, log_every)
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
    mechanics: Mechanics,
) -> None:
    """One optimizer step on one global batch, of which `batch` is this rank's part.

    The gradient is the mean over the global batch's samples, however they are spread over ranks and micro-batches.
    """
    world = mechanics.world
    set_lr(state.optimizer, lr)
    state.optimizer.zero_grad(set_to_none=True)
    totals: dict[str, Tensor] = {}
    parts = list(batch.to(world.device).split(mechanics.micro_batch))
    for i, part in enumerate(parts):
        last = i == len(parts) - 1
        with torch.autocast(world.device.type, torch.bfloat16, enabled=mechanics.bf16):
            loss, metrics = objective(replica, part)
        # The replica averages over ranks, so the ranks' shares add up to the mean over the global batch.
        share = len(part) * world.size / global_batch
        if last:
            (loss * share).backward()
        else:
            with world.without_sync(replica):
                (loss * share).backward()
        for name, value in {"loss": loss, **metrics}.items():
            totals[name] = totals.get(name, torch.zeros((), device=world.device)) + value.detach() * share
    if mechanics.clip_grad is not None:
        parameters = [p for group in state.optimizer.param_groups for p in group["params"]]
        totals["grad_norm"] = nn.utils.clip_grad_norm_(parameters, mechanics.clip_grad)
    state.optimizer.step()
    state.step += 1
    state.meter.add(totals)


def _diverged(step: int, window: int) -> UserError:
    first = (step - 1) // window * window + 1
    return UserError(
        f"The loss is not a finite number any more, since a step from {first} to {step}. The last checkpoint is from "
        "before that. Try a smaller base_lr, a longer warm-up or clip_grad."
    )
