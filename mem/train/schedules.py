"""Learning rates as functions of progress, so that a resumed training needs no schedule's state."""

from __future__ import annotations

import math
from collections.abc import Callable


def warmup_cosine(
    lr: float, min_lr: float, warmup_epochs: float, epochs: float, steps_per_epoch: float
) -> Callable[[int], float]:
    """Linear from 0 to `lr` over the warm-up, then half a cosine to `min_lr`; a function of the step.

    Source: facebookresearch/mae, util/lr_sched.py (He et al. 2022), which evaluates it at every step.
    """

    def at(step: int) -> float:
        epoch = step / steps_per_epoch
        if epoch < warmup_epochs:
            return lr * epoch / warmup_epochs
        progress = (epoch - warmup_epochs) / (epochs - warmup_epochs)
        return min_lr + (lr - min_lr) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))

    return at


def cosine(lr: float, steps: int) -> Callable[[int], float]:
    """Half a cosine from `lr` to 0 over `steps` steps."""
    return lambda step: 0.5 * lr * (1 + math.cos(math.pi * min(step / max(steps, 1), 1.0)))


def training_steps(epochs: float, images: int, global_batch: int) -> int:
    """Optimizer steps of a training: full batches, of which the last may reach into the next epoch."""
    return math.ceil(epochs * (images / global_batch))
