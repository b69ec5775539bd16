"""FLOP counts of training steps, computed by PyTorch from tensor shapes."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mem.models.recompute import recompute_activations


def training_flops(model: nn.Module, *shapes: tuple[int, ...]) -> int:
    """Return the FLOPs of the matrix products and convolutions in one forward and backward pass.

    A copy of the model runs on the meta device, which computes no values. It runs in evaluation mode, which needs no
    random numbers.

    Args:
        model: The model.
        shapes: Shape of each input for a single sample.
    """
    meta_copy = copy.deepcopy(model).to("meta").eval()
    recompute_activations(meta_copy, type(model).__name__, enabled=False)
    convolutions = {torch.ops.aten.convolution_backward: convolution_backward}
    with FlopCounterMode(display=False, custom_mapping=convolutions) as counter:
        sum_of_outputs(meta_copy(*(torch.empty(shape, device="meta") for shape in shapes))).backward()
    return counter.get_total_flops()


def sum_of_outputs(outputs: Tensor | tuple[Tensor, ...]) -> Float[Tensor, ""]:
    """Return the sum of a model's outputs. Outputs without a gradient are left out."""
    found = (outputs,) if isinstance(outputs, Tensor) else outputs
    return torch.stack([output.float().sum() for output in found if output.requires_grad]).sum()


def forward_flops(model: nn.Module, *shapes: tuple[int, ...]) -> int:
    """Return the FLOPs of the matrix products and convolutions in one forward pass; see `training_flops`."""
    meta_copy = copy.deepcopy(model).to("meta").eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        meta_copy(*(torch.empty(shape, device="meta") for shape in shapes))
    return counter.get_total_flops()


def convolution_backward(
    grad_shape: torch.Size, x_shape: torch.Size, weight_shape: torch.Size, *rest: Any, **named: Any
) -> int:
    """Return the FLOPs of a convolution's backward pass: as many as in the forward pass for each requested gradient.

    PyTorch's formula counts grouped convolutions as full convolutions, which overestimates the FLOPs of depthwise
    convolutions about a hundredfold.
    """
    # `rest`: bias_sizes, stride, padding, dilation, transposed, output_padding, groups, output_mask
    transposed, mask = rest[4], rest[7]
    assert not transposed, "no model in this project has transposed convolutions"
    forward = 2 * math.prod(grad_shape) * math.prod(weight_shape[1:])
    return forward * (bool(mask[0]) + bool(mask[1]))
