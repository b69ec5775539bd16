"""The cost of a model: FLOPs, parameters and memory. Computing it needs PyTorch; these classes do not."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelCost:
    """FLOPs and memory of a model. Only matrix products are counted, with two FLOPs per multiply-add."""

    forward_flops: float
    """FLOPs of the forward pass of one sample."""
    training_flops: float
    """FLOPs of the forward and backward passes of one sample."""
    parameters: int
    trained_parameters: int
    """Parameters that receive gradients."""
    activation_bytes: float
    """Bytes kept per sample for the backward pass."""
    weight_copy_bytes: float
    """Bytes kept for the backward pass regardless of the batch size: bfloat16 copies of the weights."""
    is_tuned: bool = False
    """Whether a tuner trains a part of the parameters. Checkpoints and moving averages contain only this part."""

    @property
    def changing_parameters(self) -> int:
        """Number of parameters in a checkpoint. A key encoder and a queue change without receiving gradients."""
        return self.trained_parameters if self.is_tuned else self.parameters


NO_MODEL = ModelCost(0.0, 0.0, 0, 0, 0.0, 0.0)
"""Cost of a stage that runs no model."""


@dataclass(frozen=True)
class ClassifierCost:
    """Cost of a backbone with its linear classifier."""

    cost: ModelCost
    width: int
    """Dimension of the pooled feature, which is that of all experts together."""
    tokens: int
    """Tokens per image."""
    experts: int = 1
    """Number of experts."""
