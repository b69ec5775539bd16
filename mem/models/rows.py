"""Selection of rows with unique indices, as differentiable functions whose backward passes only copy rows.

PyTorch's functions allow repeated indices. Their backward passes therefore add row by row, which takes longer.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor


def select_tokens(
    x: Float[Tensor, "samples tokens width"], positions: Int64[Tensor, "samples selected"]
) -> Float[Tensor, "samples selected width"]:
    """Return the tokens at some positions of each sample. The positions of a sample are unique."""
    samples, tokens, width = x.shape
    offsets = tokens * torch.arange(samples, device=x.device)
    rows = gather_rows(x.reshape(-1, width), (positions + offsets[:, None]).flatten())
    return rows.view(samples, positions.shape[1], width)


def scatter_rows(
    rows: Float[Tensor, "rows width"], indices: Int64[Tensor, " rows"], length: int
) -> Float[Tensor, "{length} width"]:
    """Write rows into an array of zeros. The indices are unique."""
    return _ScatterRows.apply(rows, indices, length)  # type: ignore[no-any-return]


def gather_rows(array: Float[Tensor, "length width"], indices: Int64[Tensor, " rows"]) -> Float[Tensor, "rows width"]:
    """Select rows. The indices are unique."""
    return _GatherRows.apply(array, indices)  # type: ignore[no-any-return]


class _ScatterRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, indices: Tensor, length: int) -> Tensor:
        ctx.save_for_backward(indices)
        return rows.new_zeros(length, rows.shape[1]).index_copy_(0, indices, rows)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (grad,) = grads
        return grad.index_select(0, ctx.saved_tensors[0]), None, None


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, array: Tensor, indices: Tensor) -> Tensor:
        ctx.save_for_backward(indices)
        ctx.length = len(array)
        return array.index_select(0, indices)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (grad,) = grads
        return grad.new_zeros(ctx.length, grad.shape[1]).index_copy_(0, ctx.saved_tensors[0], grad), None
