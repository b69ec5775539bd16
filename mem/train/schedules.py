"""Learning-rate schedules as functions of the step, so that resuming needs no scheduler state."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Schedule:
    """Length and learning rate of a training run."""

    steps: int
    """Total number of optimizer steps."""
    steps_per_epoch: float
    lr_at: Callable[[int], float]
    """Returns the learning rate at a step, before scaling by the `lr_scale` of each parameter group."""
    ends_early: Callable[[Any], bool] | None = None
    """Returns whether training ends before its last step, given the model at the end of an epoch. It may depend only on
    the state of the model, so that training that resumes ends at the same step. Default: training never ends early. The
    model is an `nn.Module`; its type is not imported, because `mem plan` starts without PyTorch."""

    def epoch_ends_at(self, step: int) -> bool:
        """Return whether the last of the first `step` steps completed an epoch."""
        if step == 0:
            return False
        return math.floor(step / self.steps_per_epoch) > math.floor((step - 1) / self.steps_per_epoch)

    def ended(self, step: int, model: Any) -> bool:
        """Return whether training has ended after a number of steps."""
        if step == self.steps:
            return True
        return self.ends_early is not None and self.epoch_ends_at(step) and self.ends_early(model)


def training_steps(epochs: float, images: int, global_batch: int) -> int:
    """Return the number of optimizer steps. All batches are full, so the last batch may extend into another epoch."""
    return math.ceil(epochs * (images / global_batch))


def warmup_cosine(
    lr: float, min_lr: float, warmup_epochs: float, epochs: float, steps_per_epoch: float
) -> Callable[[int], float]:
    """Return a learning-rate schedule with linear warm-up from 0 to `lr` and half-cosine decay to `min_lr`.

    Source: facebookresearch/mae, util/lr_sched.py (He et al. 2022), which also evaluates the schedule at every step.
    """

    def at(step: int) -> float:
        epoch = step / steps_per_epoch
        if epoch < warmup_epochs:
            return lr * epoch / warmup_epochs
        progress = (epoch - warmup_epochs) / (epochs - warmup_epochs)
        return min_lr + (lr - min_lr) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))

    return at


def warmup_steps(
    lr: float,
    min_lr: float,
    warmup_epochs: float,
    decay: tuple[float | Sequence[float], float],
    steps_per_epoch: float,
) -> Callable[[int], float]:
    """Return a learning-rate schedule with linear warm-up from 0 to `lr` and decay in steps.

    Args:
        lr: Learning rate before the first step.
        min_lr: Smallest learning rate.
        warmup_epochs: Number of epochs in which the learning rate rises linearly from 0.
        decay: Number of epochs between two steps, counted from the start of training, or the epochs of all steps; and
            the factor of each step.
        steps_per_epoch: Number of optimizer steps per epoch.
    """
    epochs, factor = decay

    def at(step: int) -> float:
        epoch = step / steps_per_epoch
        warmup = min(1.0, epoch / warmup_epochs) if warmup_epochs else 1.0
        # The tolerance prevents that rounding moves the end of an epoch behind its last step.
        if isinstance(epochs, Sequence):
            decays = sum(epoch / start + 1e-9 >= 1 for start in epochs)
        else:
            decays = math.floor(epoch / epochs + 1e-9)
        return warmup * max(min_lr, lr * factor**decays)

    return at


def cosine(lr: float, steps: int) -> Callable[[int], float]:
    """Return a learning-rate schedule with half-cosine decay from `lr` to 0 over `steps` steps."""
    return lambda step: 0.5 * lr * (1 + math.cos(math.pi * min(step / max(steps, 1), 1.0)))


def two_cosines(lr: float, first_steps: int, steps: int) -> Callable[[int], float]:
    """Return a schedule with a half-cosine decay from `lr` to 0 over the first steps, and another over the others."""
    first, second = cosine(lr, first_steps), cosine(lr, steps - first_steps)
    return lambda step: first(step) if step < first_steps else second(step - first_steps)
