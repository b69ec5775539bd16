"""Learnable weight scaling (Kang et al. 2020, section 4.2)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mem.heads.base import Head, Linear, pooled_feature


class LwsHead(Head):
    """A classifier with logits s_k (W_k z + b_k). W and b are frozen. The factors s_k are learned, starting from 1."""

    def __init__(self, weight: Float[Tensor, "classes width"], bias: Float[Tensor, " classes"]) -> None:
        super().__init__()
        self.register_buffer("weight", weight.clone())
        self.register_buffer("bias", bias.clone())
        self.scale = nn.Parameter(torch.ones(len(weight)))

    def forward(self, features: Float[Tensor, "samples *sequence width"]) -> Float[Tensor, "samples classes"]:
        """Return the logits."""
        return self.scale * nn.functional.linear(pooled_feature(features), self.weight, self.bias)  # type: ignore[arg-type]

    def as_linear(self) -> Linear:
        """Return the linear classifier with the scaled weights and biases."""
        scale = self.scale.detach()
        return Linear(scale[:, None] * self.get_buffer("weight"), scale * self.get_buffer("bias"))
