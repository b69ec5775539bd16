"""A batch of samples and labels, with reproducible random numbers for each sample."""

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
    """Consecutive samples from a training run or a dataset."""

    inputs: Tensor
    """Images of shape (samples, height, width, 3), uint8, or features of shape (samples, ...)."""
    labels: Int64[Tensor, " samples"]
    first: int
    """Index of the first sample, counted from the start of training."""
    seed: int
    group_size: int = 1
    """Number of consecutive samples in a group, counted from the start of training. No micro-batch splits a group."""

    def __len__(self) -> int:
        return len(self.labels)

    def numbers(self, stream: str, width: int) -> Float64[np.ndarray, "{len(self)} {width}"]:
        """Return `width` random numbers in [0, 1) for each sample from the given random stream; see `mem.rng`."""
        return rng.uniforms(self.seed, stream, self.first, len(self), width)

    def uniforms(self, stream: str, width: int) -> Float[Tensor, "{len(self)} {width}"]:
        """Return the result of `numbers` as a float32 tensor on the batch's device."""
        return torch.from_numpy(self.numbers(stream, width)).to(self.inputs.device, torch.float32, non_blocking=True)

    def to(self, device: torch.device) -> Batch:
        """Copy the batch to a device."""
        return replace(
            self,
            inputs=self.inputs.to(device, non_blocking=True),
            labels=self.labels.to(device, non_blocking=True),
        )

    def split(self, size: int | None) -> Iterator[Batch]:
        """Yield micro-batches of complete groups.

        Each contains at most `size` samples, but at least one group. If `size` is None, yield the complete batch.
        """
        size = max(self.group_size, size // self.group_size * self.group_size) if size else max(1, len(self))
        for start in range(0, len(self), size):
            part = slice(start, start + size)
            yield replace(self, inputs=self.inputs[part], labels=self.labels[part], first=self.first + start)
