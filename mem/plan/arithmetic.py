"""What a model computes and keeps, found by running it on tensors that have shapes and no content.

The model is built on the device `meta` and run under `FakeTensorMode`, as if on a CPU: every operation takes the path
that it takes in training (fused attention, autocast to bfloat16), allocates nothing and computes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from mem.models.flops import convolution_backward

aten = torch.ops.aten


def _attention(query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: object, **__: object) -> int:
    return sdpa_flop_count(query, key, value)


def _attention_backward(
    gradient: Sequence[int], query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: object, **__: object
) -> int:
    return sdpa_backward_flop_count(gradient, query, key, value)


FORMULAS = {
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    aten.convolution_backward: convolution_backward,
}
"""Operations that PyTorch's counter does not know, or counts wrongly. Its formula for the backward pass of fused
attention counts the scores once more, since they are computed again."""

Inputs = Callable[[int], tuple[Tensor, ...]]
"""The model's arguments for a number of samples."""


@dataclass(frozen=True)
class Arithmetic:
    """FLOPs and bytes of a model. A multiplication and an addition are two FLOPs; only matrix products count."""

    forward: float
    """FLOPs of a sample's forward pass."""
    training: float
    """FLOPs of a sample's forward and backward pass."""
    parameters: int
    """All of them."""
    trained: int
    """Those that learn."""
    kept_bytes: float
    """What the backward pass needs of each sample."""
    fixed_bytes: float
    """What it needs beside, whatever the batch: bfloat16 copies of the weights."""


NOTHING = Arithmetic(0.0, 0.0, 0, 0, 0.0, 0.0)
"""Of no model."""


def count(build: Callable[[], nn.Module], inputs: Inputs, *, bf16: bool, backward: bool = True) -> Arithmetic:
    """Count a model's FLOPs, and the bytes that its forward pass keeps for its backward pass.

    Args:
        build: Makes the model.
        inputs: Makes its arguments.
        bf16: Whether its forward pass runs under autocast.
        backward: Whether it is trained.
    """
    with torch.device("meta"):
        model = build()
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = model.to_empty(device="cpu").train(backward)
        parameters = sum(p.numel() for p in model.parameters())
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad) if backward else 0
        one, forward, training = _pass(model, inputs(1), bf16, backward)
        two = _pass(model, inputs(2), bf16, backward, flops=False)[0] if backward else one
    return Arithmetic(forward, training, parameters, trained, two - one, max(0.0, 2 * one - two))


def _pass(
    model: nn.Module, arguments: tuple[Tensor, ...], bf16: bool, backward: bool, *, flops: bool = True
) -> tuple[float, float, float]:
    """Bytes kept, FLOPs forward, FLOPs forward and backward."""
    own = {_storage(t) for t in [*model.parameters(), *model.buffers()]}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if _storage(tensor) not in own:
            kept[_storage(tensor)] = tensor
        return tensor

    counter = FlopCounterMode(display=False, custom_mapping=FORMULAS)
    with counter, torch.set_grad_enabled(backward):
        with (
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
            torch.autocast("cpu", torch.bfloat16, enabled=bf16),
        ):
            result = model(*arguments)
        forward = counter.get_total_flops()
        size = float(sum(tensor.untyped_storage().nbytes() for tensor in kept.values()))
        if backward and flops:
            result.float().sum().backward()
            model.zero_grad()
    return size, float(forward), float(counter.get_total_flops())


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
