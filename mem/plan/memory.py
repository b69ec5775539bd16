"""Memory of a training process: weights, gradients, optimizer state, and the activations of a micro-batch."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from mem.config import Compute
from mem.plan.model_cost import ModelCost

FLOAT_BYTES = 4
"""Bytes per float32. Weights, gradients and optimizer state are float32 even if the forward pass is bfloat16."""
OPTIMIZER_STATES = {"adamw": 2, "sgd": 1}
"""Number of state values that each optimizer keeps per weight."""
ACTIVATION_FACTOR = 1.15
"""Factor by which the activation memory is multiplied to cover activation gradients and fragmentation.
docs/how-to/plan.md compares the estimates with measurements."""


@dataclass(frozen=True)
class Memory:
    """Memory of one process, on the GPU or in main memory."""

    state_bytes: float
    """Memory for weights, gradients, optimizer state, the moving average, and buckets for exchanging gradients. On a
    CPU, also for the copy of the state that is written to a checkpoint."""
    weight_copy_bytes: float
    """Memory for bfloat16 copies of the weights."""
    bytes_per_image: float
    """Memory for the activations of one image."""
    batch: int
    """Number of images per forward pass on one device."""

    @property
    def bytes(self) -> float:
        """Total memory of the process."""
        return self.state_bytes + self.weight_copy_bytes + self.batch * self.bytes_per_image

    def largest_batch(self, available_bytes: float) -> int:
        """Return the largest micro-batch size that fits into the given memory."""
        if not self.bytes_per_image:
            return self.batch
        return max(0, int((available_bytes - self.state_bytes - self.weight_copy_bytes) // self.bytes_per_image))


def training_memory(
    model: ModelCost,
    optimizer: str,
    compute: Compute,
    global_batch: int,
    *,
    averaged: int,
    undivided: bool = False,
    device_bytes: float = math.inf,
) -> Memory:
    """Return the memory of one rank in training.

    If `micro_batch` is not set, the batch is halved until it fits into GPU memory, as in `mem.train.micro_batch`.
    A rank whose objective requires the complete global batch processes its part at once.

    Args:
        model: The trained model.
        optimizer: A key of `OPTIMIZER_STATES`.
        compute: Resources of the stage, including ranks and micro-batch.
        global_batch: Images per optimizer step over all ranks.
        averaged: Number of parameters of which a moving average is kept.
        undivided: Whether the objective requires the complete global batch.
        device_bytes: Memory of a GPU in bytes.
    """
    ranks = compute.nodes * compute.ranks_per_node
    # Gradients, optimizer state and, with several ranks, a gradient bucket.
    per_trained_parameter = 1 + OPTIMIZER_STATES[optimizer] + (ranks > 1)
    numbers = model.parameters + averaged + model.trained_parameters * per_trained_parameter
    if not compute.gpus_per_node:
        numbers += model.changing_parameters + averaged + model.trained_parameters * OPTIMIZER_STATES[optimizer]
    batch = -(-global_batch // ranks)
    if compute.micro_batch is not None:
        batch = min(batch, compute.micro_batch)
    memory = Memory(FLOAT_BYTES * numbers, model.weight_copy_bytes, ACTIVATION_FACTOR * model.activation_bytes, batch)
    divisible = compute.gpus_per_node and compute.micro_batch is None and not undivided
    while divisible and memory.batch > 1 and memory.bytes > device_bytes:
        memory = replace(memory, batch=-(-memory.batch // 2))
    return memory
