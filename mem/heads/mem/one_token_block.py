"""A transformer block per group for samples with one token, for training on a CPU.

PyTorch's operations would compute the block as about a hundred small operations per step, each of which reads and
writes its operands in main memory and, with several threads, ends with a barrier. Here, one group is computed after the
other, additions are part of the matrix products, and gradients are written in place. The number of multiplications is
the same.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

EPS = 1e-6
"""Epsilon of the layer norms."""


class BlockWeights(NamedTuple):
    """Weights of the block, with one matrix or vector per group. The product with a single token is `x @ weight`."""

    scale1: Float[Tensor, "groups width"]
    shift1: Float[Tensor, "groups width"]
    mix: Float[Tensor, "groups width width"]
    """Product of the value projection and the output projection."""
    mix_bias: Float[Tensor, "groups width"]
    scale2: Float[Tensor, "groups width"]
    shift2: Float[Tensor, "groups width"]
    up: Float[Tensor, "groups width hidden"]
    up_bias: Float[Tensor, "groups hidden"]
    down: Float[Tensor, "groups hidden width"]
    down_bias: Float[Tensor, "groups width"]


def one_token_block(
    x: Float[Tensor, "groups samples width"], weights: BlockWeights
) -> Float[Tensor, "groups samples width"]:
    """Return each group's pre-norm transformer block of the group's activations.

    The result has no second derivatives.
    """
    return _OneTokenBlock.apply(x, *weights)  # type: ignore[no-any-return]


class _Saved(NamedTuple):
    """Activations of one group that the backward pass needs."""

    normal1: Tensor
    mean1: Tensor
    rstd1: Tensor
    middle: Tensor
    normal2: Tensor
    mean2: Tensor
    rstd2: Tensor
    before_gelu: Tensor
    hidden: Tensor


class _OneTokenBlock(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *weights: Tensor) -> Tensor:
        out = torch.empty_like(x, memory_format=torch.contiguous_format)
        saved: list[Tensor] = []
        for g, rows in enumerate(x):
            saved += _forward(rows, BlockWeights(*(weight[g] for weight in weights)), out[g])
        ctx.save_for_backward(x, *weights, *saved)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (grad,) = grads
        parts, count = ctx.saved_tensors, 1 + len(BlockWeights._fields)
        x, weights, saved = parts[0], parts[1:count], parts[count:]
        results = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for tensor in (x, *weights)]
        # All groups use the same memory for intermediate gradients, so that it stays in the cache.
        scratch = torch.empty_like(saved[-1]), torch.empty_like(x[0], memory_format=torch.contiguous_format)
        for g in range(len(x)):
            of_group = _Saved(*saved[g * len(_Saved._fields) : (g + 1) * len(_Saved._fields)])
            grad_x, *grad_weights = (result[g] for result in results)
            _backward(
                grad[g],
                x[g],
                BlockWeights(*(weight[g] for weight in weights)),
                of_group,
                grad_x,
                BlockWeights(*grad_weights),
                scratch,
            )
        return tuple(results)


def _forward(x: Tensor, weights: BlockWeights, out: Tensor) -> _Saved:
    """Write the block's output for one group into `out` and return what the backward pass needs."""
    width = x.shape[1]
    normal1, mean1, rstd1 = torch.native_layer_norm(x, (width,), weights.scale1, weights.shift1, EPS)
    middle = torch.addmm(x, normal1, weights.mix).add_(weights.mix_bias)
    normal2, mean2, rstd2 = torch.native_layer_norm(middle, (width,), weights.scale2, weights.shift2, EPS)
    before_gelu = torch.addmm(weights.up_bias, normal2, weights.up)
    hidden = torch.nn.functional.gelu(before_gelu)
    torch.addmm(middle, hidden, weights.down, out=out).add_(weights.down_bias)
    return _Saved(normal1, mean1, rstd1, middle, normal2, mean2, rstd2, before_gelu, hidden)


def _backward(
    grad: Tensor,
    x: Tensor,
    weights: BlockWeights,
    saved: _Saved,
    grad_x: Tensor,
    grad_weights: BlockWeights,
    scratch: tuple[Tensor, Tensor],
) -> None:
    """Write the gradients of one group into `grad_x` and `grad_weights`.

    `scratch` is memory for a hidden and a visible activation, whose content is overwritten.
    """
    grad_hidden, grad_normal = scratch
    torch.mm(saved.hidden.T, grad, out=grad_weights.down)
    torch.sum(grad, 0, out=grad_weights.down_bias)
    torch.mm(grad, weights.down.T, out=grad_hidden)
    torch.ops.aten.gelu_backward.grad_input(grad_hidden, saved.before_gelu, grad_input=grad_hidden)
    torch.mm(saved.normal2.T, grad_hidden, out=grad_weights.up)
    torch.sum(grad_hidden, 0, out=grad_weights.up_bias)
    torch.mm(grad_hidden, weights.up.T, out=grad_normal)
    grad_middle = _norm_backward(grad_normal, saved.middle, saved.mean2, saved.rstd2, weights.scale2, weights.shift2)
    for result, value in zip((grad_weights.scale2, grad_weights.shift2), grad_middle[1:], strict=True):
        result.copy_(value)
    middle = grad_middle[0].add_(grad)
    torch.mm(saved.normal1.T, middle, out=grad_weights.mix)
    torch.sum(middle, 0, out=grad_weights.mix_bias)
    torch.mm(middle, weights.mix.T, out=grad_normal)
    grads = _norm_backward(grad_normal, x, saved.mean1, saved.rstd1, weights.scale1, weights.shift1)
    for result, value in zip((grad_weights.scale1, grad_weights.shift1), grads[1:], strict=True):
        result.copy_(value)
    torch.add(grads[0], middle, out=grad_x)


def _norm_backward(
    grad: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, scale: Tensor, shift: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of a layer norm with respect to its input, scale and shift."""
    return torch.ops.aten.native_layer_norm_backward(
        grad, x, (x.shape[1],), mean, rstd, scale, shift, [True, True, True]
    )
