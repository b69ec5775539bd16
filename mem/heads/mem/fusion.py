"""The fusion module of the paper (eq. 6 and 7)."""

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
    """A two-layer perceptron that computes the group weights (eq. 7).

    Args:
        inputs: Number of inputs: in eq. 7, one norm per group and the top logits of all groups.
        groups: Number of groups.
        width: Width of the hidden layer.
        kind: Mapping from the perceptron's output to the group weights; see `group_weights`.
        init: Initial weights of the last layer. `identity`: zero weights, and a bias for which all group weights are
            the same and do not change the prediction. `default`: PyTorch's random initialisation.
    """

    def __init__(self, inputs: int, groups: int, width: int, kind: str, init: str = "identity") -> None:
        super().__init__()
        self.hidden = nn.Linear(inputs, width)
        self.out = nn.Linear(width, groups)
        self.kind = kind
        if init == "identity":
            nn.init.zeros_(self.out.weight)
            nn.init.constant_(self.out.bias, {"free": 1.0, "softplus": math.log(math.e - 1)}.get(kind, 0.0))

    def forward(self, inputs: Float[Tensor, "samples inputs"]) -> Float[Tensor, "samples groups"]:
        """Return the group weights w_i."""
        return group_weights(self.out(F.gelu(self.hidden(inputs))), self.kind)


def group_weights(output: Float[Tensor, "samples groups"], kind: str) -> Float[Tensor, "samples groups"]:
    """Return the group weights w for the output o of the fusion's perceptron.

    Args:
        output: The output o.
        kind: `free` and `additive`: o. `softplus`, `exp`, `sigmoid`: this function of o. `residual`: 1 + o. `softmax`:
            the softmax of o over the groups. `mixture`: the log of this softmax, which is the log-probability of a
            group.
    """
    match kind:
        case "softplus":
            return F.softplus(output)
        case "exp":
            return output.exp()
        case "sigmoid":
            return output.sigmoid()
        case "residual":
            return 1 + output
        case "softmax":
            return output.softmax(dim=1)
        case "mixture":
            return output.log_softmax(dim=1)
        case _:
            return output
