"""The choice of one number on val, for methods that are not trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from mem.heads.base import Linear, accuracy


@torch.no_grad()
def choose_on_val(
    made: Callable[[float], Linear],
    candidates: Sequence[float],
    features: Float[Tensor, "samples width"],
    labels: Int64[Tensor, " samples"],
) -> tuple[float, dict[float, float]]:
    """The candidate whose head has the highest accuracy (the smallest of equal ones), and the accuracy of each."""
    scores = {number: float(accuracy(made(number)(features), labels)) for number in sorted(candidates)}
    return max(scores, key=lambda number: scores[number]), scores
