"""A batch of samples and labels, with reproducible random numbers for each sample."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64, UInt8
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
    second: UInt8[Tensor, "samples height width 3"] | None = None
    """Second view of each image, or None if each image has one view."""

    def __len__(self) -> int:
        return len(self.labels)

    def numbers(self, stream: str, width: int) -> Float64[np.ndarray, "{len(self)} {width}"]:
        """Return `width` random numbers in [0, 1) for each sample from the given random stream; see `mem.rng`."""
        return rng.uniforms(self.seed, stream, self.first, len(self), width)

    def uniforms(self, stream: str, width: int) -> Float[Tensor, "{len(self)} {width}"]:
        """Return the result of `numbers` as a float32 tensor on the batch's device."""
        return to_device(torch.from_numpy(self.numbers(stream, width)).to(torch.float32), self.inputs.device)

    def to(self, device: torch.device) -> Batch:
        """Copy the batch to a device without waiting for the copy; see `to_device`."""
        second = None if self.second is None else to_device(self.second, device)
        inputs, labels = to_device(self.inputs, device), to_device(self.labels, device)
        return replace(self, inputs=inputs, labels=labels, second=second)

    def split(self, size: int | None) -> Iterator[Batch]:
        """Yield micro-batches of complete groups.

        Each contains at most `size` samples, but at least one group. If `size` is None, yield the complete batch.
        """
        size = max(self.group_size, size // self.group_size * self.group_size) if size else max(1, len(self))
        for start in range(0, len(self), size):
            part = slice(start, start + size)
            second = None if self.second is None else self.second[part]
            first = self.first + start
            yield replace(self, inputs=self.inputs[part], labels=self.labels[part], first=first, second=second)


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """Copy values to a device. Copies to a GPU run in the background.

    They start from pinned memory. Otherwise, the caller would wait while the driver copies the values to such memory.
    """
    if device.type == "cuda" and values.device.type == "cpu" and torch.cuda.is_available() and not values.is_pinned():
        values = values.pin_memory()
    return values.to(device, non_blocking=True)


def on_device(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    """Yield the batches, copied to a device.

    Copies to a GPU run on a separate stream. If the caller starts the work on a batch without waiting for it, the next
    batch is copied while this work runs.
    """
    if device.type != "cuda":
        for batch in batches:
            yield batch.to(device)
        return
    copy_stream = torch.cuda.Stream(device)
    for batch in batches:
        with torch.cuda.stream(copy_stream):
            copied = batch.to(device)
        work_stream = torch.cuda.current_stream(device)
        work_stream.wait_stream(copy_stream)
        for values in (copied.inputs, copied.labels, copied.second):
            # The memory belongs to the copy stream. It must not be used again before the work on the batch has ended.
            if values is not None:
                values.record_stream(work_stream)
        yield copied
