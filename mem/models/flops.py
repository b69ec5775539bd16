"""How much arithmetic a training takes, counted by torch from shapes alone."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def training_flops(model: nn.Module, *shapes: tuple[int, ...]) -> int:
    """Floating-point operations of one forward and backward pass: those of matrix products and convolutions.

    Nothing is computed: a copy of the model without numbers runs, in evaluation, where no draws are needed.

    Args:
        model: The model.
        shapes: Of its inputs, each for one sample.
    """
    ghost = copy.deepcopy(model).to("meta").eval()
    convolutions = {torch.ops.aten.convolution_backward: convolution_backward}
    with FlopCounterMode(display=False, custom_mapping=convolutions) as counter:
        ghost(*(torch.empty(shape, device="meta") for shape in shapes)).sum().backward()
    return counter.get_total_flops()


def convolution_backward(
    grad_shape: torch.Size, x_shape: torch.Size, weight_shape: torch.Size, *rest: Any, **named: Any
) -> int:
    """As many operations as forward for each gradient that is asked for.

    torch's own formula takes grouped convolutions for full ones: a hundred times too much for depthwise ones.
    """
    # bias_sizes, stride, padding, dilation, transposed, output_padding, groups, output_mask
    transposed, mask = rest[4], rest[7]
    assert not transposed, "no model here has transposed convolutions"
    forward = 2 * math.prod(grad_shape) * math.prod(weight_shape[1:])
    return forward * (bool(mask[0]) + bool(mask[1]))
