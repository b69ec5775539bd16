"""One linear map per class group, computed for all groups at once."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


def groupwise_linear(
    x: Float[Tensor, "groups rows inputs"],
    weight: Float[Tensor, "groups inputs outputs"],
    bias: Float[Tensor, "groups 1 outputs"],
) -> Float[Tensor, "groups rows outputs"]:
    """Return `x @ weight + bias` for each group.

    This is a single batched product, except during training on a CPU. On a CPU, a batched product assigns complete
    groups to cores, so that, for example, two cores cannot share three groups evenly (docs/performance/heads.md).
    Training on a CPU therefore multiplies one group after the other, using all cores, in the forward and backward
    passes. This alternative has no second derivatives and does not support autocast. Under autocast, the batched
    product is used.
    """
    if computes_group_by_group(x):
        return _GroupByGroupLinear.apply(x, weight, bias)  # type: ignore[no-any-return]
    return torch.baddbmm(bias, x, weight)


def computes_group_by_group(x: Tensor) -> bool:
    """Return whether products of `x` are computed for one group after the other: in training on a CPU."""
    batched = x.device.type != "cpu" or torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling()
    return not batched and torch.is_grad_enabled()


class _GroupByGroupLinear(torch.autograd.Function):
    """`groupwise_linear` as a sequence of products, each of which writes its slice of a shared result."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        out = x.new_empty(*x.shape[:2], weight.shape[2])
        for g in range(len(x)):
            torch.addmm(bias[g], x[g], weight[g], out=out[g])
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grads: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        needs_grad_x, needs_grad_weight, needs_grad_bias = ctx.needs_input_grad
        grad = grads[0].contiguous()
        grad_x = x.new_empty(x.shape) if needs_grad_x else None
        grad_weight = weight.new_empty(weight.shape) if needs_grad_weight else None
        for g in range(len(x)):
            if grad_x is not None:
                torch.mm(grad[g], weight[g].T, out=grad_x[g])
            if grad_weight is not None:
                torch.mm(x[g].T, grad[g], out=grad_weight[g])
        return grad_x, grad_weight, grad.sum(dim=1, keepdim=True) if needs_grad_bias else None
