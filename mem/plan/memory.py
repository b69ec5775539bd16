"""Memory of a process that trains: weights, gradients, optimizer, and what the backward pass needs of a micro-batch."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from mem.config import Compute
from mem.plan.arithmetic import Arithmetic

FLOAT = 4
"""Bytes of a float32: weights, gradients and optimizer states are float32 also where the forward pass is bfloat16."""
STATES = {"adamw": 2, "sgd": 1}
"""Numbers that an optimizer keeps for each weight."""
TRANSIENT = 1.15
"""Gradients of activations, and room that an allocator cannot use, as a factor on the activations; docs/how-to/plan.md has
what was measured."""


@dataclass(frozen=True)
class Memory:
    """Bytes of one process, on its GPU or in main memory."""

    state: float
    """Weights, gradients, optimizer states, average, buckets of the gradients' exchange."""
    fixed: float
    """bfloat16 copies of the weights."""
    each: float
    """Activations of an image."""
    batch: int
    """Images that go through the device at once."""

    @property
    def bytes(self) -> float:
        """All of it."""
        return self.state + self.fixed + self.batch * self.each

    def largest_batch(self, room: float) -> int:
        """How many images at once would fit into so many bytes."""
        return max(0, int((room - self.state - self.fixed) // self.each)) if self.each else self.batch


def training_memory(
    model: Arithmetic,
    optimizer: str,
    compute: Compute,
    global_batch: int,
    *,
    average: bool,
    device_bytes: float = math.inf,
) -> Memory:
    """Memory of one rank in training.

    Where no micro-batch is set, a GPU halves the batch until it fits (see `mem.train.micro_batch`); so does this.

    Args:
        model: What it trains.
        optimizer: A key of `STATES`.
        compute: Ranks and micro-batch.
        global_batch: Images per step over all ranks.
        average: Whether a moving average of the weights is kept.
        device_bytes: Memory of a GPU.
    """
    ranks = compute.nodes * compute.ranks_per_node
    numbers = model.parameters + model.trained * (1 + STATES[optimizer] + (ranks > 1)) + model.parameters * average
    batch = -(-global_batch // ranks)
    if compute.micro_batch is not None:
        batch = min(batch, compute.micro_batch)
    memory = Memory(FLOAT * numbers, model.fixed_bytes, TRANSIENT * model.kept_bytes, batch)
    while compute.gpus_per_node and compute.micro_batch is None and memory.batch > 1 and memory.bytes > device_bytes:
        memory = replace(memory, batch=-(-memory.batch // 2))
    return memory
