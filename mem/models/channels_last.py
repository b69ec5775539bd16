"""The memory format of convolutional networks."""

from __future__ import annotations

import torch
from torch import nn


def is_convolutional(model: nn.Module) -> bool:
    """Return whether most parameters are weights of convolutions. The embedding of patches does not count."""
    convolutions = (m for m in model.modules() if isinstance(m, nn.Conv2d) and not _embeds_patches(m))
    return 2 * sum(m.weight.numel() for m in convolutions) > sum(p.numel() for p in model.parameters())


def _embeds_patches(layer: nn.Conv2d) -> bool:
    return layer.stride == layer.kernel_size != (1, 1)


def store_channels_last(model: nn.Module) -> None:
    """Store the weights of convolutions with the channels last, in place.

    PyTorch then stores the outputs of the convolutions in this format too. On a GPU, matrix units need it, and the
    kernels for the other format first convert their inputs.
    """
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
