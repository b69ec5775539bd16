"""The transformer block for samples with one token: values and gradients."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from mem.heads.mem import subnetworks
from mem.heads.mem.one_token_block import EPS, BlockWeights, one_token_block
from mem.heads.mem.subnetworks import GroupwiseBlock


def inputs(groups: int, samples: int, width: int, hidden: int) -> tuple[torch.Tensor, BlockWeights]:
    """Return random activations and weights in double precision."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"mix": (width, width), "up": (width, hidden), "down": (hidden, width), "up_bias": (hidden,)}
    x, *weights = (
        torch.randn(groups, *shape, generator=generator, dtype=torch.float64).requires_grad_()
        for shape in ((samples, width), *(shapes.get(name, (width,)) for name in BlockWeights._fields))
    )
    return x, BlockWeights(*weights)


def composed(x: torch.Tensor, weights: BlockWeights) -> torch.Tensor:
    """The same block from PyTorch's operations."""
    outputs = []
    for g, rows in enumerate(x):
        w = BlockWeights(*(weight[g] for weight in weights))
        rows = rows + F.layer_norm(rows, rows.shape[1:], w.scale1, w.shift1, EPS) @ w.mix + w.mix_bias
        hidden = F.gelu(F.layer_norm(rows, rows.shape[1:], w.scale2, w.shift2, EPS) @ w.up + w.up_bias)
        outputs.append(rows + hidden @ w.down + w.down_bias)
    return torch.stack(outputs)


@pytest.mark.parametrize("shape", [(3, 5, 4, 6), (1, 1, 3, 1), (2, 7, 2, 9)])
def test_values_and_gradients_equal_those_of_pytorchs_operations(shape):
    x, weights = inputs(*shape)
    ours, theirs = one_token_block(x, weights), composed(x, weights)
    torch.testing.assert_close(ours, theirs)
    factor = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1), dtype=ours.dtype)
    gradients = [torch.autograd.grad((out * factor).sum(), [x, *weights]) for out in (ours, theirs)]
    torch.testing.assert_close(*gradients)


def test_gradients_equal_finite_differences():
    x, weights = inputs(2, 3, 4, 5)
    assert torch.autograd.gradcheck(lambda x, *weights: one_token_block(x, BlockWeights(*weights)), (x, *weights))


@pytest.mark.parametrize("samples", [4, 8, 40])
def test_the_blocks_of_a_head_learn_the_same_with_and_without_it(monkeypatch, samples):
    torch.manual_seed(0)
    block = GroupwiseBlock(3, 8).double().train()
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.randn(3, samples, 1, 8, dtype=torch.float64, requires_grad=True)
    results = []
    calls: list[int] = []
    for specialised in (True, False):
        monkeypatch.setattr(subnetworks, "computes_group_by_group", lambda _, result=specialised: result)
        monkeypatch.setattr(
            subnetworks, "one_token_block", lambda *given: (calls.append(1), one_token_block(*given))[1]
        )
        out = block(x)
        results.append([out, *torch.autograd.grad(out.square().sum(), [x, *block.parameters()])])
    assert len(calls) == 1
    torch.testing.assert_close(*results)
