"""Count the FLOPs and activations of a model by running it on fake tensors.

The model, which can be on the device `meta`, is run under `FakeTensorMode` as if on a CPU. Every operation uses the
same code path as in training (fused attention, autocast to bfloat16), but allocates no memory and computes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from mem.models.flops import convolution_backward, sum_of_outputs
from mem.plan.model_cost import ModelCost

aten = torch.ops.aten


def _attention(query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: object, **__: object) -> int:
    return sdpa_flop_count(query, key, value)


def _attention_backward(
    gradient: Sequence[int], query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: object, **__: object
) -> int:
    return sdpa_backward_flop_count(gradient, query, key, value)


FLOP_FORMULAS = {
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    aten.convolution_backward: convolution_backward,
}
"""FLOP formulas for operations that PyTorch's counter does not support or counts incorrectly. For the backward pass
of fused attention, PyTorch's formula also counts the recomputation of the attention scores."""

Inputs = Callable[[int], tuple[Tensor, ...]]
"""Function that returns the model's arguments for a given number of samples."""


def count_cost(model: nn.Module, inputs: Inputs, *, bf16: bool, backward: bool = True) -> ModelCost:
    """Count the FLOPs of a model and the bytes that its forward pass keeps for the backward pass.

    Args:
        model: The model. Its parameters and buffers are replaced by fake tensors, so it cannot be used afterwards.
        inputs: Function that returns the model's arguments for a given number of samples.
        bf16: Whether the forward pass runs under autocast to bfloat16.
        backward: Whether the model is trained.
    """
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = model.to_empty(device="cpu").train(backward)
        parameters = sum(p.numel() for p in model.parameters())
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad) if backward else 0
        # BatchNorm cannot be trained with a single value per channel, which one sample can have.
        bytes_of_two, forward_flops, training_flops = _run(model, inputs(2), bf16, backward)
        bytes_of_four = _run(model, inputs(4), bf16, backward, flops=False)[0] if backward else bytes_of_two
    # The kept memory is linear in the number of samples: the slope is the cost per sample, the intercept a fixed cost.
    per_sample, constant = (bytes_of_four - bytes_of_two) / 2, max(0.0, 2 * bytes_of_two - bytes_of_four)
    return ModelCost(forward_flops / 2, training_flops / 2, parameters, trained, per_sample, constant)


def _run(
    model: nn.Module, arguments: tuple[Tensor, ...], bf16: bool, backward: bool, *, flops: bool = True
) -> tuple[float, float, float]:
    """Return the bytes kept for the backward pass, the FLOPs of the forward pass, and the FLOPs of both passes."""
    model_storages = {_storage(tensor) for tensor in [*model.parameters(), *model.buffers()]}
    saved: dict[int, Tensor] = {}

    def save(tensor: Tensor) -> Tensor:
        if _storage(tensor) not in model_storages:
            saved[_storage(tensor)] = tensor
        return tensor

    counter = FlopCounterMode(display=False, custom_mapping=FLOP_FORMULAS)
    with counter, torch.set_grad_enabled(backward):
        with (
            torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor),
            torch.autocast("cpu", torch.bfloat16, enabled=bf16),
        ):
            result = model(*arguments)
        forward_flops = counter.get_total_flops()
        saved_bytes = float(sum(tensor.untyped_storage().nbytes() for tensor in saved.values()))
        if backward and flops:
            sum_of_outputs(result).backward()
            model.zero_grad()
    return saved_bytes, float(forward_flops), float(counter.get_total_flops())


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
