"""The fusion module and the data-aware classifier of the paper, eq. 6 to 8."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F


class TopLogits(nn.Module):
    """The largest `k` logits of each group (eq. 6), in falling order, group after group.

    A group with fewer than `k` classes gives all it has, so that the width is the sum of min(k, classes of g).
    """

    def __init__(self, members: Bool[Tensor, "groups classes"], k: int) -> None:
        super().__init__()
        sizes = members.sum(dim=1)
        columns = torch.zeros(len(members), int(sizes.max()), dtype=torch.long)
        for g, own in enumerate(members):
            columns[g, : sizes[g]] = own.nonzero()[:, 0]
        present = torch.arange(columns.shape[1]) < sizes[:, None]
        self.k = min(k, columns.shape[1])
        self.register_buffer("columns", columns, persistent=False)
        self.register_buffer("present", present, persistent=False)
        self.register_buffer("kept", present[:, : self.k].reshape(-1).nonzero()[:, 0], persistent=False)
        self.width = len(self.get_buffer("kept"))

    def forward(self, logits: Float[Tensor, "samples classes"]) -> Float[Tensor, "samples kept"]:
        """The paper's T_i."""
        values, classes = self._search(logits)
        return logits.gather(1, classes).where(values.isfinite(), values)

    @torch.no_grad()
    def _search(
        self, logits: Float[Tensor, "samples classes"]
    ) -> tuple[Float[Tensor, "samples kept"], Int64[Tensor, "samples kept"]]:
        """The kept logits and their classes. Searched apart, so that a gradient passes through `kept` logits only."""
        columns, present = self.get_buffer("columns"), self.get_buffer("present")
        by_group = logits.index_select(1, columns.view(-1)).view(-1, *columns.shape)
        values, largest = by_group.masked_fill_(~present, -torch.inf).topk(self.k, dim=2)
        classes = columns.expand(logits.shape[0], -1, -1).gather(2, largest)
        kept = self.get_buffer("kept")
        return values.flatten(1)[:, kept], classes.flatten(1)[:, kept]


class Fusion(nn.Module):
    """Group weights from group norms and top logits: a two-layer perceptron (eq. 7).

    Norms enter divided by xi, so that both kinds of input have a like scale. The last layer starts at zero weights and
    such a bias that the weights start neutral: 1 where they multiply, 0 where they are added.
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
        """The paper's w_i."""
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
    """The argument of eq. 8's softmax: each logit times its group's weight (`additive`: plus it)."""
    if torch.is_grad_enabled():
        # The same by a product with the groups' membership, whose gradient is one too, not a sum entry by entry.
        own = weights @ F.one_hot(group_of_class, weights.shape[1]).T.to(weights.dtype)
    else:
        own = weights[:, group_of_class]
    return logits + own if additive else logits * own
