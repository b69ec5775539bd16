"""The sub-networks Q_1 ... Q_G of the paper's section 3.1, all groups computed together.

Every parameter has a leading dimension for the group, every activation too.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from mem.heads.mem.group_product import group_linear

HEAD_WIDTH = 32
"""Channels of one attention head, as far as the width has that many."""


class SubNetworks(nn.Module):
    """Maps a feature to one embedding a group; an embedding's L2 norm is the group's signal.

    A linear embedding, `depth` transformer blocks with norms before their layers, and the mean over tokens. There is
    no norm after the last block: a normalised embedding would have a nearly constant length, where eq. 3 wants
    lengths from mu up to xi.
    """

    def __init__(self, groups: int, features: int, width: int, depth: int) -> None:
        super().__init__()
        self.embed = GroupLinear(groups, features, width)
        self.blocks = nn.Sequential(*[GroupBlock(groups, width) for _ in range(depth)])

    def forward(self, tokens: Float[Tensor, "samples tokens features"]) -> Float[Tensor, "groups samples width"]:
        """The embeddings."""
        embedded = self.blocks(self.embed(tokens.expand(len(self.embed.weight), *tokens.shape)))
        return embedded[:, :, 0] if embedded.shape[2] == 1 else embedded.mean(dim=2)


class GroupBlock(nn.Module):
    """A transformer block (Vaswani et al. 2017) for each group, with norms before attention and perceptron."""

    def __init__(self, groups: int, width: int) -> None:
        super().__init__()
        self.heads = max(1, width // HEAD_WIDTH)
        if width % self.heads:
            self.heads = 1
        self.norm1 = GroupNorm(groups, width)
        self.qkv = GroupLinear(groups, width, 3 * width)
        self.proj = GroupLinear(groups, width, width)
        self.norm2 = GroupNorm(groups, width)
        self.fc1 = GroupLinear(groups, width, 4 * width)
        self.fc2 = GroupLinear(groups, 4 * width, width)

    def forward(self, x: Float[Tensor, "groups samples tokens width"]) -> Float[Tensor, "groups samples tokens width"]:
        """The block's output."""
        x = x + self.attention(self.norm1(x))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))

    def attention(
        self, x: Float[Tensor, "groups samples tokens width"]
    ) -> Float[Tensor, "groups samples tokens width"]:
        """Self-attention among a sample's tokens. Of a single token it is its own value."""
        groups, samples, tokens, width = x.shape
        if tokens == 1:
            return self._value(x)
        split = self.qkv(x).view(groups * samples, tokens, 3, self.heads, width // self.heads)
        q, k, v = split.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        return self.proj(mixed.reshape(groups, samples, tokens, width))

    def _value(self, x: Float[Tensor, "groups samples 1 width"]) -> Float[Tensor, "groups samples 1 width"]:
        """Attention of a token to itself: two linear maps in a row. A training's batch multiplies them first."""
        width = x.shape[3]
        weight, bias = self.qkv.weight[..., 2 * width :], self.qkv.bias[..., 2 * width :]
        if not self.training or x.shape[1] <= width:
            return self.proj(group_linear(x[:, :, 0], weight, bias)[:, :, None])
        bias = torch.baddbmm(self.proj.bias, bias, self.proj.weight)
        return group_linear(x[:, :, 0], torch.bmm(weight, self.proj.weight), bias)[:, :, None]


class GroupLinear(nn.Module):
    """A linear layer for each group."""

    def __init__(self, groups: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(groups, inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(groups, 1, outputs))
        for weight in self.weight:
            nn.init.xavier_uniform_(weight)

    def forward(
        self, x: Float[Tensor, "groups samples tokens inputs"]
    ) -> Float[Tensor, "groups samples tokens outputs"]:
        """The layer's output."""
        groups, samples, tokens, inputs = x.shape
        product = group_linear(x.reshape(groups, samples * tokens, inputs), self.weight, self.bias)
        return product.view(groups, samples, tokens, -1)


class GroupNorm(nn.Module):
    """A layer norm (Ba et al. 2016) for each group."""

    def __init__(self, groups: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(groups, 1, 1, width))
        self.bias = nn.Parameter(torch.zeros(groups, 1, 1, width))

    def forward(self, x: Float[Tensor, "groups samples tokens width"]) -> Float[Tensor, "groups samples tokens width"]:
        """The normalised tokens."""
        return F.layer_norm(x, x.shape[-1:], eps=1e-6) * self.weight + self.bias


def magnitudes(embeddings: Float[Tensor, "groups samples width"]) -> Float[Tensor, "samples groups"]:
    """The L2 norm of each group's embedding: the paper's Q_g(z; theta_g)."""
    return torch.linalg.vector_norm(embeddings, dim=2).T
