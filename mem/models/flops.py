"""The number of floating-point operations of a training step, counted by torch from shapes alone."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def training_flops(model: nn.Module, *shapes: tuple[int, ...]) -> int:
    """Return the floating-point operations of the matrix products and convolutions of one forward and backward pass.

    Nothing is computed: a copy of the model runs on the meta device, in evaluation mode, which needs no random numbers.

    Args:
        model: The model.
        shapes: Shapes of the inputs, each for one sample.
    """
    meta_copy = copy.deepcopy(model).to("meta").eval()
    convolutions = {torch.ops.aten.convolution_backward: convolution_backward}
    with FlopCounterMode(display=False, custom_mapping=convolutions) as counter:
        meta_copy(*(torch.empty(shape, device="meta") for shape in shapes)).sum().backward()
    return counter.get_total_flops()


def convolution_backward(
    grad_shape: torch.Size, x_shape: torch.Size, weight_shape: torch.Size, *rest: Any, **named: Any
) -> int:
    """Return the operations of a convolution's backward pass: those of the forward pass for each gradient requested.

    torch's own formula counts grouped convolutions as full ones, a hundred times too much for depthwise ones.
    """
    # bias_sizes, stride, padding, dilation, transposed, output_padding, groups, output_mask
    transposed, mask = rest[4], rest[7]
    assert not transposed, "no model in this project has transposed convolutions"
    forward = 2 * math.prod(grad_shape) * math.prod(weight_shape[1:])
    return forward * (bool(mask[0]) + bool(mask[1]))
