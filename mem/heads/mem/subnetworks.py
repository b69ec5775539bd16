"""The sub-networks Q_1 ... Q_G from section 3.1 of the paper, computed for all groups at once.

All parameters and activations have a leading group dimension.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from mem.heads.mem.group_product import computes_group_by_group, groupwise_linear
from mem.heads.mem.one_token_block import EPS, BlockWeights, one_token_block

_ATTENTION_HEAD_WIDTH = 32
"""Minimum number of channels per attention head. A block has as many heads as this allows, or a single head if its
width is not divisible by this number of heads."""


class SubNetworks(nn.Module):
    """Computes one embedding of an image per group, whose L2 norm indicates whether the image belongs to the group.

    A sub-network consists of a linear layer, `depth` pre-norm transformer blocks and the mean over tokens. There is no
    norm after the last block, because it would fix the length of the embedding, which is what eq. 3 trains.

    Args:
        groups: Number of groups.
        features: Width of the backbone's features.
        width: Width of the sub-networks.
        depth: Number of transformer blocks.
    """

    def __init__(self, groups: int, features: int, width: int, depth: int) -> None:
        super().__init__()
        self.embed = GroupwiseLinear(groups, features, width)
        self.blocks = nn.Sequential(*[GroupwiseBlock(groups, width) for _ in range(depth)])

    def forward(self, tokens: Float[Tensor, "samples tokens features"]) -> Float[Tensor, "groups samples width"]:
        """Return each group's embeddings of the samples."""
        embedded = self._token_embeddings(tokens)
        return embedded[:, :, 0] if embedded.shape[2] == 1 else embedded.mean(dim=2)

    def norms(
        self, tokens: Float[Tensor, "samples tokens features"], pool: str = "embedding"
    ) -> Float[Tensor, "samples groups"]:
        """Return Q_g(z; theta_g): the norm of the mean embedding or, with the pool `norm`, the mean of all norms."""
        if pool == "embedding":
            return embedding_norms(self(tokens))
        return torch.linalg.vector_norm(self._token_embeddings(tokens), dim=3).mean(dim=2).T

    def _token_embeddings(
        self, tokens: Float[Tensor, "samples tokens features"]
    ) -> Float[Tensor, "groups samples tokens width"]:
        return self.blocks(self.embed(tokens.expand(len(self.embed.weight), *tokens.shape)))


class GroupwiseBlock(nn.Module):
    """One pre-norm transformer block (Vaswani et al. 2017) per group."""

    def __init__(self, groups: int, width: int) -> None:
        super().__init__()
        self.attention_heads = max(1, width // _ATTENTION_HEAD_WIDTH)
        if width % self.attention_heads:
            self.attention_heads = 1
        self.norm1 = GroupwiseLayerNorm(groups, width)
        self.qkv = GroupwiseLinear(groups, width, 3 * width)
        self.proj = GroupwiseLinear(groups, width, width)
        self.norm2 = GroupwiseLayerNorm(groups, width)
        self.fc1 = GroupwiseLinear(groups, width, 4 * width)
        self.fc2 = GroupwiseLinear(groups, 4 * width, width)

    def forward(self, x: Float[Tensor, "groups samples tokens width"]) -> Float[Tensor, "groups samples tokens width"]:
        """Apply each group's block to the group's activations."""
        _, samples, tokens, width = x.shape
        # With few samples, the product of the two projection matrices would cost more than it saves.
        if tokens == 1 and self.training and 2 * samples >= width and computes_group_by_group(x):
            return one_token_block(x[:, :, 0], self._one_token_weights())[:, :, None]
        x = x + self.attention(self.norm1(x))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))

    def attention(
        self, x: Float[Tensor, "groups samples tokens width"]
    ) -> Float[Tensor, "groups samples tokens width"]:
        """Apply self-attention over the tokens of each sample, without computing attention weights for one token."""
        groups, samples, tokens, width = x.shape
        if tokens == 1:
            return self._value(x)
        heads = self.attention_heads
        qkv = self.qkv(x).view(groups * samples, tokens, 3, heads, width // heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        return self.proj(mixed.reshape(groups, samples, tokens, width))

    def _value(self, x: Float[Tensor, "groups samples 1 width"]) -> Float[Tensor, "groups samples 1 width"]:
        """Apply the value and output projections, which are equivalent to attention over a single token."""
        width = x.shape[3]
        weight, bias = self.qkv.weight[..., 2 * width :], self.qkv.bias[..., 2 * width :]
        if not self.training or x.shape[1] <= width:
            return self.proj(groupwise_linear(x[:, :, 0], weight, bias)[:, :, None])
        # For large batches, it is cheaper to multiply the two projection matrices first.
        return groupwise_linear(x[:, :, 0], *self._value_and_output())[:, :, None]

    def _value_and_output(self) -> tuple[Float[Tensor, "groups width width"], Float[Tensor, "groups 1 width"]]:
        """Return the product of the value projection and the output projection."""
        width = self.proj.weight.shape[1]
        weight, bias = self.qkv.weight[..., 2 * width :], self.qkv.bias[..., 2 * width :]
        return torch.bmm(weight, self.proj.weight), torch.baddbmm(self.proj.bias, bias, self.proj.weight)

    def _one_token_weights(self) -> BlockWeights:
        """Return the weights for `one_token_block`."""
        mix, mix_bias = self._value_and_output()
        return BlockWeights(
            self.norm1.weight.flatten(1),
            self.norm1.bias.flatten(1),
            mix,
            mix_bias[:, 0],
            self.norm2.weight.flatten(1),
            self.norm2.bias.flatten(1),
            self.fc1.weight,
            self.fc1.bias[:, 0],
            self.fc2.weight,
            self.fc2.bias[:, 0],
        )


class GroupwiseLinear(nn.Module):
    """One linear layer per group."""

    def __init__(self, groups: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(groups, inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(groups, 1, outputs))
        for weight in self.weight:
            nn.init.xavier_uniform_(weight)

    def forward(
        self, x: Float[Tensor, "groups samples tokens inputs"]
    ) -> Float[Tensor, "groups samples tokens outputs"]:
        """Apply each group's layer to the group's activations."""
        groups, samples, tokens, inputs = x.shape
        product = groupwise_linear(x.reshape(groups, samples * tokens, inputs), self.weight, self.bias)
        return product.view(groups, samples, tokens, -1)


class GroupwiseLayerNorm(nn.Module):
    """One layer norm (Ba et al. 2016) per group."""

    def __init__(self, groups: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(groups, 1, 1, width))
        self.bias = nn.Parameter(torch.zeros(groups, 1, 1, width))

    def forward(self, x: Float[Tensor, "groups samples tokens width"]) -> Float[Tensor, "groups samples tokens width"]:
        """Normalise each token."""
        return F.layer_norm(x, x.shape[-1:], eps=EPS) * self.weight + self.bias


def embedding_norms(embeddings: Float[Tensor, "groups samples width"]) -> Float[Tensor, "samples groups"]:
    """Return the L2 norm of each group's embedding: Q_g(z; theta_g) in the paper."""
    return torch.linalg.vector_norm(embeddings, dim=2).T
