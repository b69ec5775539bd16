"""A batch: samples, labels, and the random numbers that belong to each sample."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from mem import rng


@dataclass(frozen=True)
class Batch:
    """Consecutive samples of a training or of a dataset."""

    inputs: Tensor
    """Images of shape (samples, height, width, 3), uint8, or features of shape (samples, ...)."""
    labels: Int64[Tensor, " samples"]
    first: int
    """Number of the first sample, counted from 0 over the whole training."""
    seed: int
    group_size: int = 1
    """Number of consecutive samples, counted from 0 over the whole training, that share a micro-batch."""

    def __len__(self) -> int:
        return len(self.labels)

    def numbers(self, stream: str, width: int) -> Float64[np.ndarray, "{len(self)} {width}"]:
        """Return random numbers in [0, 1) for each sample; see `mem.rng`."""
        return rng.uniforms(self.seed, stream, self.first, len(self), width)

    def uniforms(self, stream: str, width: int) -> Float[Tensor, "{len(self)} {width}"]:
        """Return the same numbers in float32, on the batch's device."""
        return torch.from_numpy(self.numbers(stream, width)).to(self.inputs.device, torch.float32, non_blocking=True)

    def to(self, device: torch.device) -> Batch:
        """Return the batch on a device."""
        return replace(
            self,
            inputs=self.inputs.to(device, non_blocking=True),
            labels=self.labels.to(device, non_blocking=True),
        )

    def split(self, size: int | None) -> Iterator[Batch]:
        """Yield micro-batches of at most `size` samples, but at least of one group; None yields the whole batch."""
        size = max(self.group_size, size // self.group_size * self.group_size) if size else max(1, len(self))
        for start in range(0, len(self), size):
            part = slice(start, start + size)
            yield replace(self, inputs=self.inputs[part], labels=self.labels[part], first=self.first + start)
