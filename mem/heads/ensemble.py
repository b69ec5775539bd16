"""The classifiers of a backbone's experts as a head, which averages their predictions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mem.heads.base import Head, Linear, pooled_feature
from mem.heads.cosine import CosineHead
from mem.models.cosine import cosine_logits


class ExpertEnsemble(Head):
    """One linear or cosine classifier per expert. The logits are the mean of the experts' logits.

    If experts own classes, as in ACE, the logit of a class is the mean over the experts that own it.

    The inputs are the pooled features of all experts, one after another: (samples, experts * width).

    Args:
        weight: Weight vectors of each expert's classifier.
        bias: Biases of linear classifiers. Exactly one of `bias` and `scale` is given.
        scale: Scale of cosine classifiers.
        chosen: Indices of the experts that are averaged, from 0. None means all of them.
        average: What is averaged. With `probabilities`, the logits are the logs of the mean probabilities.
        owned: 1 if an expert owns a class, and 0 otherwise. Default: every expert owns all classes. A class that no
            chosen expert owns has the mean of all chosen experts.
    """

    owned: Float[Tensor, "experts classes"]

    def __init__(
        self,
        weight: Float[Tensor, "experts classes width"],
        *,
        bias: Float[Tensor, "experts classes"] | None = None,
        scale: float | None = None,
        chosen: Sequence[int] | None = None,
        average: Literal["logits", "probabilities"] = "logits",
        owned: Float[Tensor, "experts classes"] | None = None,
    ) -> None:
        super().__init__()
        if (bias is None) == (scale is None):
            raise ValueError("expected either the biases of linear classifiers or the scale of cosine classifiers")
        self.weight = nn.Parameter(weight.clone())
        self.bias = nn.Parameter(bias.clone()) if bias is not None else None
        self.scale = scale
        self.chosen = tuple(range(len(weight)) if chosen is None else chosen)
        self.average = average
        self.register_buffer("owned", weight.new_ones(weight.shape[:2]) if owned is None else owned.clone())

    @property
    def experts(self) -> int:
        """Number of experts, including those that are not averaged."""
        return len(self.weight)

    def of_experts(
        self, numbers: Sequence[int] | None, average: Literal["logits", "probabilities"] = "logits"
    ) -> ExpertEnsemble:
        """Return a copy that averages some of the experts.

        Args:
            numbers: Numbers of the experts, from 1. None means all of them.
            average: What is averaged.
        """
        bias = None if self.bias is None else self.bias.detach()
        chosen = None if numbers is None else sorted(number - 1 for number in numbers)
        return ExpertEnsemble(
            self.weight.detach(), bias=bias, scale=self.scale, chosen=chosen, average=average, owned=self.owned
        )

    def classifier_of(self, expert: int) -> Linear | CosineHead:
        """Return a copy of the classifier of one expert, by its index from 0."""
        weight = self.weight[expert].detach()
        if self.bias is not None:
            return Linear(weight, self.bias[expert].detach())
        assert self.scale is not None
        return CosineHead(weight, self.scale)

    def forward(self, features: Float[Tensor, "samples *sequence width"]) -> Float[Tensor, "samples classes"]:
        """Return the logits of the ensemble."""
        logits, shares = self.expert_logits(features), self.shares()
        if len(self.chosen) < self.experts:
            logits = torch.stack([logits[:, e] for e in self.chosen], dim=1)
        if self.average == "logits":
            return (logits * shares).sum(dim=1)
        return (logits.log_softmax(dim=2) + shares.log()).logsumexp(dim=1)

    def shares(self) -> Float[Tensor, "chosen classes"]:
        """Return the weight of each chosen expert in the mean. The weights of a class add up to 1."""
        owned = torch.stack([self.owned[e] for e in self.chosen])
        owned = torch.where(owned.sum(dim=0) > 0, owned, 1.0)
        return owned / owned.sum(dim=0)

    def expert_features(
        self, features: Float[Tensor, "samples *sequence width"]
    ) -> Float[Tensor, "samples experts width_of_expert"]:
        """Return the pooled feature of each expert."""
        return pooled_feature(features).unflatten(1, (self.experts, -1))

    def expert_logits(
        self, features: Float[Tensor, "samples *sequence width"]
    ) -> Float[Tensor, "samples experts classes"]:
        """Return the logits of each expert."""
        pooled = self.expert_features(features).unbind(1)
        if self.bias is None:
            assert self.scale is not None
            logits = [cosine_logits(z, w, self.scale) for z, w in zip(pooled, self.weight, strict=True)]
        else:
            parts = zip(pooled, self.weight, self.bias, strict=True)
            logits = [nn.functional.linear(z, w, b) for z, w, b in parts]
        return torch.stack(logits, dim=1)

    def as_linear(self) -> Linear | None:
        """Return the ensemble as one linear classifier of the concatenated features.

        None if the classifiers of the experts are not linear, or if probabilities are averaged.
        """
        if self.bias is None or self.average != "logits":
            return None
        shares = torch.zeros_like(self.owned)
        shares[list(self.chosen)] = self.shares()
        weight = (shares[:, :, None] * self.weight.detach()).transpose(0, 1).flatten(1)
        return Linear(weight, (shares * self.bias.detach()).sum(dim=0))
