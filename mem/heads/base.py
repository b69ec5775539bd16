"""Base class of all heads, and the linear classifier."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from mem.losses import cross_entropy


class Head(nn.Module, ABC):
    """A classifier on top of frozen backbone features.

    Inputs are pooled features of shape (samples, width), or pooled features and tokens of shape
    (samples, 1 + tokens, width) with the pooled feature first.
    """

    uses_tokens: bool = False
    """Whether the head uses tokens in addition to the pooled feature."""
    transductive: bool = False
    """Whether the head was adapted to the test images, without their labels. Its results are marked."""

    @abstractmethod
    def forward(self, features: Float[Tensor, "samples *sequence width"]) -> Float[Tensor, "samples classes"]:
        """Return the logits."""

    def loss(
        self, features: Float[Tensor, "samples *sequence width"], labels: Int64[Tensor, " samples"]
    ) -> tuple[Float[Tensor, ""], Mapping[str, Tensor]]:
        """Return the mean loss of a batch, and metrics to log. Accuracies are in percent."""
        logits = self(features)
        return cross_entropy(logits, labels).mean(), {"acc1": 100 * accuracy(logits, labels)}

    def first_phase_steps(self, steps: int) -> int:
        """Return how many of the training steps minimise `first_phase_loss` before the other steps minimise `loss`."""
        return 0

    def first_phase_loss(
        self, features: Float[Tensor, "samples *sequence width"], labels: Int64[Tensor, " samples"]
    ) -> tuple[Float[Tensor, ""], Mapping[str, Tensor]]:
        """Return the loss of a step in the first phase, and metrics to log."""
        return self.loss(features, labels)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the trained parameters as groups for the optimizer, optionally with the key `lr_scale`."""
        return [{"params": [p for p in self.parameters() if p.requires_grad]}]

    def as_linear(self) -> Linear | None:
        """Return a copy of the head as a linear classifier with bias, or None if the head is not linear."""
        return None

    def as_start(self) -> Linear | None:
        """Return the linear classifier from which other heads start, or None if they cannot start from this head."""
        return self.as_linear()


class Linear(Head):
    """A linear classifier on the pooled feature."""

    def __init__(self, weight: Float[Tensor, "classes width"], bias: Float[Tensor, " classes"] | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.clone())
        self.bias = nn.Parameter(bias.clone()) if bias is not None else None

    def forward(self, features: Float[Tensor, "samples *sequence width"]) -> Float[Tensor, "samples classes"]:
        """Return the logits."""
        return nn.functional.linear(pooled_feature(features), self.weight, self.bias)

    def as_linear(self) -> Linear:
        """Return a copy with bias. A missing bias is 0."""
        weight = self.weight.detach()
        return Linear(weight, weight.new_zeros(len(weight)) if self.bias is None else self.bias.detach())


def pooled_feature(features: Float[Tensor, "samples *sequence width"]) -> Float[Tensor, "samples width"]:
    """Return the pooled feature of head inputs with or without tokens."""
    return features if features.ndim == 2 else features[:, 0]


def accuracy(logits: Float[Tensor, "samples classes"], labels: Int64[Tensor, " samples"]) -> Float[Tensor, ""]:
    """Return the share of samples for which the label has the largest logit, from 0 to 1."""
    return (logits.argmax(dim=1) == labels).float().mean()


def fresh_linear(width: int, classes: int, seed: int) -> Linear:
    """Return a linear classifier with PyTorch's default initialisation, without using its global generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layer = nn.Linear(width, classes)
    return Linear(layer.weight.detach(), layer.bias.detach())
