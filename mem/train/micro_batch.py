"""Search for a micro-batch that fits into the device's memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from mem.data.batch import Batch
from mem.distributed import World
from mem.errors import UserError
from mem.models.batch_norm import discard_batch_norm_statistics, micro_batch_multiple
from mem.precision import Precision, autocast
from mem.train.state import TrainState
from mem.train.step import Objective


@dataclass(frozen=True)
class Trial:
    """A forward and backward pass that tests memory use and leaves the training state unchanged."""

    state: TrainState
    objective: Objective
    batch: Batch
    """This rank's part of a global batch, on its device."""
    world: World
    precision: Precision

    def run(self, size: int) -> None:
        """Run a forward and backward pass with `size` samples.

        Raises:
            torch.OutOfMemoryError: The samples do not fit.
        """
        ballast = torch.empty(self._reserved_bytes(), dtype=torch.uint8, device=self.world.device)
        try:
            part = next(self.batch.split(size))
            for _ in range(2):  # The second pass adds to an existing gradient, as gradient accumulation does.
                with autocast(self.precision, self.world.device):
                    loss, _ = self.objective(self.state.model, part)
                loss.backward()
        finally:
            del ballast
            self.state.optimizer.zero_grad(set_to_none=True)
            discard_batch_norm_statistics(self.state.model)

    def _reserved_bytes(self) -> int:
        """Memory that the optimizer and the gradient exchange will allocate later, in bytes."""
        copies = 0 if self.state.optimizer.state else 2
        trained = (p for p in self.state.model.parameters() if p.requires_grad)
        weights = sum(p.numel() * p.element_size() for p in trained)
        return (copies + (self.world.size > 1)) * weights


def find_micro_batch(trial: Trial, say: Callable[[str], None]) -> int:
    """Return a micro-batch that fits into the device's memory on every rank, starting from the largest part of a batch.

    Raises:
        UserError: The smallest micro-batch does not fit.
    """
    trial.state.model.train()
    samples = max(trial.world.from_all(len(trial.batch)))
    size = fitting_micro_batch(trial.run, samples, micro_batch_multiple(trial.state.model, samples), trial.world.any)
    if size < samples and trial.world.is_main:
        say(f"{samples} images do not fit into the GPU's memory at once. The micro-batch is {size}.")
    return size


def fitting_micro_batch(
    attempt: Callable[[int], None], largest: int, granule: int, any_rank: Callable[[bool], bool]
) -> int:
    """Halve the micro-batch until it fits into the device's memory on every rank, and return the result.

    Args:
        attempt: Runs a forward and backward pass with the given number of images. Raises `torch.OutOfMemoryError` if
            they do not fit.
        largest: Largest number of images per batch on a rank.
        granule: Number that must divide the micro-batch, such as the size of the BatchNorm groups.
        any_rank: Returns whether a flag is set on any rank. All ranks therefore try the same sizes.

    Raises:
        UserError: The smallest micro-batch does not fit.
    """
    size = largest
    while True:
        out_of_memory = False
        try:
            attempt(size)
        except torch.OutOfMemoryError:
            out_of_memory = True
        if not any_rank(out_of_memory):
            return size
        smaller = -(-size // (2 * granule)) * granule
        if smaller >= size:
            raise UserError(
                f"A micro-batch of {size} image(s) does not fit into the GPU's memory. Use a smaller model, smaller "
                "images, precision bf16, or a GPU with more memory."
            )
        size = smaller
