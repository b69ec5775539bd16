"""The fusion module and the data-aware classifier of the paper (eq. 6 to 8)."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F


class TopLogits(nn.Module):
    """The `k` largest logits of each group in descending order, concatenated over groups (eq. 6).

    A group with fewer than `k` classes contributes all its logits. The output width is therefore the sum of
    min(k, number of classes) over the groups.

    Args:
        members: Whether each class belongs to each group.
        k: Number of logits per group.
    """

    def __init__(self, members: Bool[Tensor, "groups classes"], k: int) -> None:
        super().__init__()
        sizes = members.sum(dim=1)
        columns = torch.zeros(len(members), int(sizes.max()), dtype=torch.long)
        for g, is_member in enumerate(members):
            columns[g, : sizes[g]] = is_member.nonzero()[:, 0]
        present = torch.arange(columns.shape[1]) < sizes[:, None]
        self.k = min(k, columns.shape[1])
        self.register_buffer("columns", columns, persistent=False)
        self.register_buffer("present", present, persistent=False)
        self.register_buffer("kept", present[:, : self.k].reshape(-1).nonzero()[:, 0], persistent=False)
        self.width = len(self.get_buffer("kept"))

    def forward(self, logits: Float[Tensor, "samples classes"]) -> Float[Tensor, "samples kept"]:
        """Return the top logits T_i."""
        values, classes = self._largest(logits)
        # A logit of minus infinity ties with the padding, and the class of the padding can belong to another group. Use
        # the value itself in this case.
        return logits.gather(1, classes).where(values.isfinite(), values)

    @torch.no_grad()
    def _largest(
        self, logits: Float[Tensor, "samples classes"]
    ) -> tuple[Float[Tensor, "samples kept"], Int64[Tensor, "samples kept"]]:
        """Return the largest logits and their classes without gradients. `forward` gathers them with gradients."""
        columns, present = self.get_buffer("columns"), self.get_buffer("present")
        by_group = logits.index_select(1, columns.view(-1)).view(-1, *columns.shape)
        values, largest = by_group.masked_fill_(~present, -torch.inf).topk(self.k, dim=2)
        classes = columns.expand(logits.shape[0], -1, -1).gather(2, largest)
        kept = self.get_buffer("kept")
        return values.flatten(1)[:, kept], classes.flatten(1)[:, kept]


class Fusion(nn.Module):
    """A two-layer perceptron that computes the group weights from the norms and the top logits (eq. 7).

    Norms are divided by xi so that their scale is similar to the scale of the logits. The last layer is initialised
    with zero weights and with a bias for which the group weights do not change the logits: the weights are 1 if they
    multiply the logits, and 0 if they are added.

    Args:
        groups: Number of groups.
        top_logits: Number of top logits, over all groups.
        width: Width of the hidden layer.
        xi: Margin of the regularisation objective for images of the group.
        kind: Mapping from the perceptron's output to the group weights: `free`, `softplus`, `exp`, `residual` or
            `additive`.
    """

    def __init__(self, groups: int, top_logits: int, width: int, xi: float, kind: str) -> None:
        super().__init__()
        self.hidden = nn.Linear(groups + top_logits, width)
        self.out = nn.Linear(width, groups)
        self.xi = xi
        self.kind = kind
        nn.init.zeros_(self.out.weight)
        neutral = {"free": 1.0, "softplus": math.log(math.e - 1), "exp": 0.0, "residual": 0.0, "additive": 0.0}
        nn.init.constant_(self.out.bias, neutral[kind])

    def forward(
        self, norms: Float[Tensor, "samples groups"], top: Float[Tensor, "samples kept"]
    ) -> Float[Tensor, "samples groups"]:
        """Return the group weights w_i."""
        output = self.out(F.gelu(self.hidden(torch.cat([norms / self.xi, top], dim=1))))
        match self.kind:
            case "softplus":
                return F.softplus(output)
            case "exp":
                return output.exp()
            case "residual":
                return 1 + output
            case _:
                return output


def data_aware_logits(
    logits: Float[Tensor, "samples classes"],
    weights: Float[Tensor, "samples groups"],
    group_of_class: Int64[Tensor, " classes"],
    *,
    additive: bool = False,
) -> Float[Tensor, "samples classes"]:
    """Multiply each logit by the weight of its group. The products are the arguments of the softmax in eq. 8.

    With `additive`, the weight is added to the logit instead.
    """
    if torch.is_grad_enabled():
        # Equivalent to indexing, but the gradient is a matrix product instead of a scatter.
        membership = F.one_hot(group_of_class, weights.shape[1]).T.to(weights.dtype)
        weight_of_class = weights @ membership
    else:
        weight_of_class = weights[:, group_of_class]
    return logits + weight_of_class if additive else logits * weight_of_class
