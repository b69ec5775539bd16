"""A linear map for each group, of all groups at once."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


def group_linear(
    x: Float[Tensor, "groups rows inputs"],
    weight: Float[Tensor, "groups inputs outputs"],
    bias: Float[Tensor, "groups 1 outputs"],
) -> Float[Tensor, "groups rows outputs"]:
    """`x @ weight + bias`, group by group.

    On a GPU, and where nothing is to be learnt, one batched product. On a CPU that is as slow as if each core took
    whole groups, of which two cores can share three badly (docs/performance/heads.md has the figures); so there each
    group's product has all cores, forward and backward, and writes its part of one result. That way has no second
    derivatives, and is left to the batched product under autocast.
    """
    batched = x.device.type != "cpu" or torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling()
    if batched or not torch.is_grad_enabled():
        return torch.baddbmm(bias, x, weight)
    return _ProductOfGroups.apply(x, weight, bias)  # type: ignore[no-any-return]


class _ProductOfGroups(torch.autograd.Function):
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
        of_x, of_weight, of_bias = ctx.needs_input_grad
        grad = grads[0].contiguous()
        grad_x = x.new_empty(x.shape) if of_x else None
        grad_weight = weight.new_empty(weight.shape) if of_weight else None
        for g in range(len(x)):
            if grad_x is not None:
                torch.mm(grad[g], weight[g].T, out=grad_x[g])
            if grad_weight is not None:
                torch.mm(x[g].T, grad[g], out=grad_weight[g])
        return grad_x, grad_weight, grad.sum(dim=1, keepdim=True) if of_bias else None
