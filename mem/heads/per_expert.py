"""One head per expert: each is trained on the feature of one expert, and the logits are averaged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from mem.heads.base import Head, Linear, pooled_feature
from mem.heads.ensemble import ExpertEnsemble
from mem.heads.mem.modulated import ModulatedHead


class PerExpertHead(Head):
    """Heads of the same method, one for each expert.

    The heads are trained together. The loss is the sum of the losses of the experts' heads, so that each head has the
    gradient of a head that is trained alone, and the same steps with any optimizer. The logits are the mean of the
    logits of the heads, and metrics during training are means over the experts.

    Args:
        heads: The head of each expert.
    """

    def __init__(self, heads: Sequence[Head]) -> None:
        super().__init__()
        self.heads = nn.ModuleList(heads)

    @property
    def _members(self) -> list[Any]:
        """The heads, with the methods that `nn.ModuleList` does not know."""
        return list(self.heads)

    def _parts(self, features: Float[Tensor, "samples *sequence width"]) -> Sequence[tuple[Any, Tensor]]:
        """Return each head with its part of the features."""
        parts = pooled_feature(features).chunk(len(self.heads), dim=1)
        return list(zip(self._members, parts, strict=True))

    def forward(self, features: Float[Tensor, "samples *sequence width"]) -> Float[Tensor, "samples classes"]:
        """Return the mean of the logits of the heads."""
        return torch.stack([head(part) for head, part in self._parts(features)]).mean(dim=0)

    def loss(
        self, features: Float[Tensor, "samples *sequence width"], labels: Int64[Tensor, " samples"]
    ) -> tuple[Float[Tensor, ""], Mapping[str, Tensor]]:
        """Return the sum of the losses of the heads, and the means of their metrics.

        `acc1` is the mean accuracy of the experts.
        """
        return _together([head.loss(part, labels) for head, part in self._parts(features)])

    def first_phase_steps(self, steps: int) -> int:
        """Return the number of steps in the first phase, which is the same for all heads."""
        return self._members[0].first_phase_steps(steps)

    def first_phase_loss(
        self, features: Float[Tensor, "samples *sequence width"], labels: Int64[Tensor, " samples"]
    ) -> tuple[Float[Tensor, ""], Mapping[str, Tensor]]:
        """Return the sum of the losses of the first phase, and the means of its metrics."""
        return _together([head.first_phase_loss(part, labels) for head, part in self._parts(features)])

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the groups of all heads."""
        return [group for head in self._members for group in head.parameter_groups()]

    def as_experts(self) -> ExpertEnsemble | None:
        """Return a copy as linear classifiers of the experts, or None if the heads are not linear."""
        linear: list[Linear | None] = [head.as_linear() for head in self._members]
        if any(head is None for head in linear):
            return None
        weight = torch.stack([head.weight.detach() for head in linear if head is not None])
        bias = torch.stack([head.bias.detach() for head in linear if head is not None and head.bias is not None])
        return ExpertEnsemble(weight, bias=bias)

    def as_linear(self) -> Linear | None:
        """Return a copy as one linear classifier of the concatenated features, or None if the heads are not linear."""
        experts = self.as_experts()
        return None if experts is None else experts.as_linear()


class MemOnExperts(PerExpertHead, ModulatedHead):
    """MEM on each expert. All experts have the same partition of the classes.

    Args:
        heads: The MEM head of each expert.
    """

    def __init__(self, heads: Sequence[ModulatedHead]) -> None:
        super().__init__(heads)
        self.settings = heads[0].settings
        self.register_buffer("group_of_class", heads[0].get_buffer("group_of_class").clone(), persistent=False)

    def modulate(
        self, features: Float[Tensor, "samples *sequence width"]
    ) -> tuple[Float[Tensor, "samples classes"], Float[Tensor, "samples groups"], Float[Tensor, "samples groups"]]:
        """Return the means over the experts of the data-aware logits, the group weights and the norms.

        The group that the norms name is therefore the one with the largest mean norm.
        """
        results = [head.modulate(part) for head, part in self._parts(features)]
        logits, weights, norms = (torch.stack(values).mean(dim=0) for values in zip(*results, strict=True))
        return logits, weights, norms


def _together(
    results: Sequence[tuple[Float[Tensor, ""], Mapping[str, Tensor]]],
) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
    """Return the sum over heads of the losses, and the mean of each metric."""
    losses, metrics = zip(*results, strict=True)
    means = {name: torch.stack([values[name] for values in metrics]).mean() for name in metrics[0]}
    return torch.stack(losses).sum(), means
