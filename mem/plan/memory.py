"""Memory of a training process: weights, gradients, optimizer states, and activations of a micro-batch."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from mem.config import Compute
from mem.plan.cost_counter import ModelCost

FLOAT_BYTES = 4
"""Bytes of a float32. Weights, gradients and optimizer states are float32 even if the forward pass is bfloat16."""
OPTIMIZER_STATES = {"adamw": 2, "sgd": 1}
"""Numbers that an optimizer keeps for each weight."""
ACTIVATION_FACTOR = 1.15
"""Allowance on the activations for their gradients and for fragmentation. docs/how-to/plan.md compares with
measurements."""


@dataclass(frozen=True)
class Memory:
    """Memory of one process, on its GPU or in main memory."""

    state_bytes: float
    """Weights, gradients, optimizer states, moving average, buckets for exchanging gradients."""
    weight_copy_bytes: float
    """bfloat16 copies of the weights."""
    bytes_per_image: float
    """Activations of one image."""
    batch: int
    """Images that pass through the device at once."""

    @property
    def bytes(self) -> float:
        """Total memory."""
        return self.state_bytes + self.weight_copy_bytes + self.batch * self.bytes_per_image

    def largest_batch(self, available_bytes: float) -> int:
        """Return the number of images that can pass at once within the given memory."""
        if not self.bytes_per_image:
            return self.batch
        return max(0, int((available_bytes - self.state_bytes - self.weight_copy_bytes) // self.bytes_per_image))


def training_memory(
    model: ModelCost,
    optimizer: str,
    compute: Compute,
    global_batch: int,
    *,
    average: bool,
    device_bytes: float = math.inf,
) -> Memory:
    """Return the memory of one rank in training.

    Without `micro_batch`, a GPU halves the batch until it fits (see `mem.train.micro_batch`), and so does this.

    Args:
        model: The trained model.
        optimizer: A key of `OPTIMIZER_STATES`.
        compute: Ranks and micro-batch.
        global_batch: Images per step over all ranks.
        average: Whether a moving average of the weights is kept.
        device_bytes: Memory of a GPU.
    """
    ranks = compute.nodes * compute.ranks_per_node
    # Gradients, optimizer states and, with several ranks, a bucket of gradients.
    per_trained_parameter = 1 + OPTIMIZER_STATES[optimizer] + (ranks > 1)
    numbers = model.parameters * (1 + average) + model.trained_parameters * per_trained_parameter
    batch = -(-global_batch // ranks)
    if compute.micro_batch is not None:
        batch = min(batch, compute.micro_batch)
    memory = Memory(FLOAT_BYTES * numbers, model.weight_copy_bytes, ACTIVATION_FACTOR * model.activation_bytes, batch)
    while compute.gpus_per_node and compute.micro_batch is None and memory.batch > 1 and memory.bytes > device_bytes:
        memory = replace(memory, batch=-(-memory.batch // 2))
    return memory
