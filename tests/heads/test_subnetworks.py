"""Sub-networks of all groups, compared with a loop over groups and with PyTorch's transformer layer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mem.heads.mem.subnetworks import GroupwiseBlock, SubNetworks, embedding_norms


def looped(model: SubNetworks, tokens: Tensor) -> Tensor:
    """Compute the embeddings group by group, with full attention even for a single token."""
    parameters = dict(model.named_parameters())
    embeddings = []
    for g in range(len(model.embed.weight)):
        group_weights = {name: value[g] for name, value in parameters.items()}

        def linear(x: Tensor, name: str, weights: dict[str, Tensor] = group_weights) -> Tensor:
            return x @ weights[f"{name}.weight"] + weights[f"{name}.bias"]

        def norm(x: Tensor, name: str, weights: dict[str, Tensor] = group_weights) -> Tensor:
            return F.layer_norm(x, x.shape[-1:], eps=1e-6) * weights[f"{name}.weight"] + weights[f"{name}.bias"]

        x = linear(tokens, "embed")
        for b, block in enumerate(model.blocks):
            q, k, v = linear(norm(x, f"blocks.{b}.norm1"), f"blocks.{b}.qkv").chunk(3, dim=-1)
            parts = [t.unflatten(-1, (block.attention_heads, -1)).transpose(1, 2) for t in (q, k, v)]
            scores = parts[0] @ parts[1].transpose(-1, -2) / parts[0].shape[-1] ** 0.5
            mixed = (scores.softmax(dim=-1) @ parts[2]).transpose(1, 2).flatten(2)
            x = x + linear(mixed, f"blocks.{b}.proj")
            hidden = F.gelu(linear(norm(x, f"blocks.{b}.norm2"), f"blocks.{b}.fc1"))
            x = x + linear(hidden, f"blocks.{b}.fc2")
        embeddings.append(x.mean(dim=1))
    return torch.stack(embeddings)


@pytest.mark.parametrize(("samples", "tokens"), [(7, 1), (70, 1), (7, 5)])
@pytest.mark.parametrize(("width", "depth"), [(8, 0), (64, 1), (33, 2)])
def test_all_groups_at_once_equal_a_loop_over_groups(samples, tokens, width, depth):
    torch.manual_seed(0)
    model = SubNetworks(3, 12, width, depth).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    inputs = torch.randn(samples, tokens, 12, dtype=torch.float64)
    gradients = []
    for embeddings in (model(inputs), looped(model, inputs)):
        model.zero_grad()
        embeddings.norm(dim=2).square().sin().sum().backward()
        gradients.append([torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in model.parameters()])
    torch.testing.assert_close(model(inputs), looped(model, inputs), rtol=1e-10, atol=1e-10)
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("tokens", [1, 5])
def test_training_evaluation_and_half_batches_give_the_same_embeddings(tokens):
    torch.manual_seed(0)
    model = SubNetworks(3, 12, 64, 2).double()
    inputs = torch.randn(70, tokens, 12, dtype=torch.float64)
    trained = model.train()(inputs)
    halves = torch.cat([model(inputs[:35]), model(inputs[35:])], dim=1)
    with torch.no_grad():
        evaluated = model.eval()(inputs)
    torch.testing.assert_close(trained, halves, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(trained, evaluated, rtol=1e-10, atol=1e-10)


def test_names_and_shapes_in_the_state_dict_are_stable():
    shapes = {name: tuple(value.shape) for name, value in SubNetworks(3, 12, 8, 1).state_dict().items()}
    assert shapes["embed.weight"] == (3, 12, 8)
    assert shapes["blocks.0.qkv.weight"] == (3, 8, 24)
    assert shapes["blocks.0.fc1.bias"] == (3, 1, 32)
    assert len(shapes) == 14


@pytest.mark.parametrize("tokens", [1, 5])
def test_sub_networks_of_all_groups_equal_networks_of_one_group_each(tokens):
    torch.manual_seed(0)
    all_groups = SubNetworks(groups=3, features=10, width=64, depth=2).double()
    z = torch.randn(4, tokens, 10).double()
    expected = []
    for g in range(3):
        one_group = SubNetworks(groups=1, features=10, width=64, depth=2).double()
        one_group.load_state_dict({name: value[g : g + 1] for name, value in all_groups.state_dict().items()})
        expected.append(one_group(z)[0])
    torch.testing.assert_close(all_groups(z), torch.stack(expected))


def test_a_block_equals_pytorchs_transformer_layer():
    torch.manual_seed(0)
    ours = GroupwiseBlock(1, 64).double()
    theirs = torch.nn.TransformerEncoderLayer(
        64,
        ours.attention_heads,
        256,
        dropout=0,
        activation="gelu",
        layer_norm_eps=1e-6,
        batch_first=True,
        norm_first=True,
    ).double()
    p = {name: value[0] for name, value in ours.state_dict().items()}
    theirs.load_state_dict(
        {
            "self_attn.in_proj_weight": p["qkv.weight"].T,
            "self_attn.in_proj_bias": p["qkv.bias"][0],
            "self_attn.out_proj.weight": p["proj.weight"].T,
            "self_attn.out_proj.bias": p["proj.bias"][0],
            "linear1.weight": p["fc1.weight"].T,
            "linear1.bias": p["fc1.bias"][0],
            "linear2.weight": p["fc2.weight"].T,
            "linear2.bias": p["fc2.bias"][0],
            **{f"norm{i}.{k}": p[f"norm{i}.{k}"].flatten() for i in (1, 2) for k in ("weight", "bias")},
        }
    )
    for tokens in (1, 6):
        x = torch.randn(3, tokens, 64).double()
        torch.testing.assert_close(ours(x[None])[0], theirs(x))


def test_embedding_norms_are_l2_norms_with_a_finite_gradient_at_zero():
    embeddings = torch.randn(3, 4, 5)
    expected = np.sqrt((embeddings.numpy() ** 2).sum(2)).T
    np.testing.assert_allclose(embedding_norms(embeddings).numpy(), expected, rtol=1e-6)
    zero = torch.zeros(1, 1, 5, requires_grad=True)
    embedding_norms(zero).sum().backward()
    assert torch.isfinite(zero.grad).all()
