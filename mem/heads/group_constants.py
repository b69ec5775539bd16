"""A control for MEM: learned constants for each group of classes, which do not depend on the image."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from mem.heads.base import Head, Linear, pooled_feature


class GroupConstantsHead(Head):
    """A classifier with logits f_g (W_k z + b_k) + o_g for a class k of the group g.

    W and b are frozen. The factors f_g start from 1 and the offsets o_g from 0.

    Args:
        classifier: The linear classifier with W and b.
        group_of_class: Group of each class.
        groups: Number of groups.
        constants: What is learned: `offset`, `factor` or `both`.
    """

    def __init__(
        self, classifier: Linear, group_of_class: Int64[Tensor, " classes"], groups: int, constants: str
    ) -> None:
        super().__init__()
        linear = classifier.as_linear()
        assert linear.bias is not None
        self.register_buffer("weight", linear.weight.detach())
        self.register_buffer("bias", linear.bias.detach())
        self.register_buffer("group_of_class", group_of_class)
        self.factor = nn.Parameter(torch.ones(groups), requires_grad=constants != "offset")
        self.offset = nn.Parameter(torch.zeros(groups), requires_grad=constants != "factor")

    def forward(self, features: Float[Tensor, "samples *sequence width"]) -> Float[Tensor, "samples classes"]:
        """Return the logits."""
        logits = nn.functional.linear(pooled_feature(features), self.get_buffer("weight"), self.get_buffer("bias"))
        groups = self.get_buffer("group_of_class")
        return self.factor[groups] * logits + self.offset[groups]

    def as_linear(self) -> Linear:
        """Return the linear classifier with the constants in its weights and biases."""
        groups = self.get_buffer("group_of_class")
        factor, offset = self.factor.detach()[groups], self.offset.detach()[groups]
        return Linear(factor[:, None] * self.get_buffer("weight"), factor * self.get_buffer("bias") + offset)
