"""The outputs of a transformer block at some of its tokens, and the selection of tokens."""

from __future__ import annotations

import pytest
import torch
from timm.models.vision_transformer import Block

from mem.models.block_outputs import block_outputs
from mem.models.rows import select_tokens
from mem.models.transformer import layer_norm


def tokens(samples: int = 3, count: int = 7, width: int = 8) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(samples, count, width, dtype=torch.float64, generator=generator).requires_grad_()


def positions(selected: int, samples: int = 3, count: int = 7) -> torch.Tensor:
    """Different positions for each sample, in any order."""
    return torch.rand(samples, count, generator=torch.Generator().manual_seed(1)).argsort(dim=1)[:, :selected]


@pytest.mark.parametrize("selected", [1, 4, 7])
def test_values_and_gradients_equal_those_of_the_complete_block(selected):
    torch.manual_seed(0)
    block = Block(8, 2, qkv_bias=True, norm_layer=layer_norm).double()  # type: ignore[arg-type]
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x, chosen = tokens(), positions(selected)
    ours = block_outputs(block, x, chosen)
    theirs = block(x).gather(1, chosen[:, :, None].expand(-1, -1, 8))
    torch.testing.assert_close(ours, theirs)
    inputs = [x, *block.parameters()]
    gradients = [torch.autograd.grad(out.square().sum(), inputs) for out in (ours, theirs)]
    torch.testing.assert_close(*gradients)


def test_tokens_are_selected_from_each_sample():
    x, chosen = tokens(), positions(4)
    ours, theirs = select_tokens(x, chosen), x.gather(1, chosen[:, :, None].expand(-1, -1, 8))
    assert torch.equal(ours, theirs)
    weights = torch.arange(ours.numel(), dtype=x.dtype).view_as(ours)
    gradients = [torch.autograd.grad((out * weights).sum(), x)[0] for out in (ours, theirs)]
    assert torch.equal(*gradients)
