"""The outputs of a transformer block at some of its tokens."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

from mem.models.rows import select_tokens


def block_outputs(
    block: Any, x: Float[Tensor, "samples tokens width"], positions: Int64[Tensor, "samples selected"]
) -> Float[Tensor, "samples selected width"]:
    """Return a pre-norm block's outputs at unique positions of each sample.

    The other tokens only provide keys and values. Their queries, projections and perceptrons are not computed.

    Args:
        block: A block of timm's ViT without layer scale, stochastic depth and norms of queries and keys.
        x: The block's inputs.
        positions: Tokens whose outputs are returned.
    """
    attention = block.attn
    samples, tokens, width = x.shape
    heads, selected = attention.num_heads, positions.shape[1]
    normal = block.norm1(x)
    weight, bias = attention.qkv.weight, attention.qkv.bias
    query = F.linear(select_tokens(normal, positions), weight[:width], bias[:width])
    key, value = (
        F.linear(normal, weight[width:], bias[width:]).view(samples, tokens, 2, heads, -1).permute(2, 0, 3, 1, 4)
    )
    mixed = F.scaled_dot_product_attention(query.view(samples, selected, heads, -1).transpose(1, 2), key, value)
    x = select_tokens(x, positions) + attention.proj(mixed.transpose(1, 2).reshape(samples, selected, width))
    return x + block.mlp(block.norm2(x))
