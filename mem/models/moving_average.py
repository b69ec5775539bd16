"""Moving averages of weights, updated in place."""

from __future__ import annotations

import torch
from jaxtyping import Bool
from torch import Tensor


@torch.no_grad()
def move_averages(
    averages: list[Tensor], weights: list[Tensor], decay: float, skipped: Bool[Tensor, ""] | None = None
) -> None:
    """Update averages of weights in place: average = decay * average + (1 - decay) * weights.

    Args:
        averages: The averages.
        weights: The current weights, in the same order.
        decay: Weight of the previous average.
        skipped: Flag on the device that disables the update.
    """
    if skipped is None:
        torch._foreach_lerp_(averages, weights, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]
        return
    for average, current in zip(averages, weights, strict=True):
        average.lerp_(current, ((1 - decay) * ~skipped).to(average.dtype))
