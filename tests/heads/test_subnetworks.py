"""The sub-networks of all groups at once against a loop over groups, values and gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mem.heads.mem.subnetworks import SubNetworks


def looped(model: SubNetworks, tokens: Tensor) -> Tensor:
    """Each group by itself, with attention written out also where there is one token."""
    parameters = dict(model.named_parameters())
    made = []
    for g in range(len(model.embed.weight)):
        own = {name: value[g] for name, value in parameters.items()}

        def linear(x: Tensor, name: str, own: dict[str, Tensor] = own) -> Tensor:
            return x @ own[f"{name}.weight"] + own[f"{name}.bias"]

        def norm(x: Tensor, name: str, own: dict[str, Tensor] = own) -> Tensor:
            return F.layer_norm(x, x.shape[-1:], eps=1e-6) * own[f"{name}.weight"] + own[f"{name}.bias"]

        x = linear(tokens, "embed")
        for b, block in enumerate(model.blocks):
            q, k, v = linear(norm(x, f"blocks.{b}.norm1"), f"blocks.{b}.qkv").chunk(3, dim=-1)
            parts = [t.unflatten(-1, (block.heads, -1)).transpose(1, 2) for t in (q, k, v)]
            scores = parts[0] @ parts[1].transpose(-1, -2) / parts[0].shape[-1] ** 0.5
            mixed = (scores.softmax(dim=-1) @ parts[2]).transpose(1, 2).flatten(2)
            x = x + linear(mixed, f"blocks.{b}.proj")
            hidden = F.gelu(linear(norm(x, f"blocks.{b}.norm2"), f"blocks.{b}.fc1"))
            x = x + linear(hidden, f"blocks.{b}.fc2")
        made.append(x.mean(dim=1))
    return torch.stack(made)


@pytest.mark.parametrize(("samples", "tokens"), [(7, 1), (70, 1), (7, 5)])
@pytest.mark.parametrize(("width", "depth"), [(8, 0), (64, 1), (33, 2)])
def test_all_groups_at_once_are_what_a_loop_over_groups_gives(samples, tokens, width, depth):
    torch.manual_seed(0)
    model = SubNetworks(3, 12, width, depth).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    inputs = torch.randn(samples, tokens, 12, dtype=torch.float64)
    gradients = []
    for made in (model(inputs), looped(model, inputs)):
        model.zero_grad()
        made.norm(dim=2).square().sin().sum().backward()
        gradients.append([torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in model.parameters()])
    torch.testing.assert_close(model(inputs), looped(model, inputs), rtol=1e-10, atol=1e-10)
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("tokens", [1, 5])
def test_training_evaluation_and_halves_of_a_batch_give_the_same(tokens):
    torch.manual_seed(0)
    model = SubNetworks(3, 12, 64, 2).double()
    inputs = torch.randn(70, tokens, 12, dtype=torch.float64)
    trained = model.train()(inputs)
    halves = torch.cat([model(inputs[:35]), model(inputs[35:])], dim=1)
    with torch.no_grad():
        evaluated = model.eval()(inputs)
    torch.testing.assert_close(trained, halves, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(trained, evaluated, rtol=1e-10, atol=1e-10)


def test_names_and_shapes_of_the_state_stay():
    shapes = {name: tuple(value.shape) for name, value in SubNetworks(3, 12, 8, 1).state_dict().items()}
    assert shapes["embed.weight"] == (3, 12, 8)
    assert shapes["blocks.0.qkv.weight"] == (3, 8, 24)
    assert shapes["blocks.0.fc1.bias"] == (3, 1, 32)
    assert len(shapes) == 14
