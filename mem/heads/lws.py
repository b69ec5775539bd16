"""Learnable weight scaling (Kang et al. 2020, section 4.2): one factor a class on the frozen classifier."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mem.heads.base import Head, pool_tokens


class Lws(Head):
    """Logits s_k (W_k z + b_k); W and b are frozen, s starts at 1 and is learnt with class-balanced sampling."""

    def __init__(self, weight: Float[Tensor, "classes width"], bias: Float[Tensor, " classes"]) -> None:
        super().__init__()
        self.register_buffer("weight", weight.clone())
        self.register_buffer("bias", bias.clone())
        self.scale = nn.Parameter(torch.ones(len(weight)))

    def forward(self, features: Float[Tensor, "samples *sequence width"]) -> Float[Tensor, "samples classes"]:
        """Logits."""
        return self.scale * nn.functional.linear(pool_tokens(features), self.weight, self.bias)  # type: ignore[arg-type]
