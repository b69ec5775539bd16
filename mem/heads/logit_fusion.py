"""A control for MEM: its fusion without sub-networks."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from mem import config, longtail
from mem.heads.base import Head, Linear
from mem.heads.mem.data_aware import modulated_logits
from mem.heads.mem.fusion import Fusion, TopLogits
from mem.heads.prior import loss_with_prior


class LogitFusionHead(Head):
    """A linear classifier whose logits are adjusted by one weight per group of classes (eq. 8 of the paper).

    As in MEM, a perceptron computes the weights (eq. 7), but its only input is the top logits of each group (eq. 6).
    There are no group norms and no regularisation objective.

    Args:
        settings: Settings of the head.
        classifier: The linear classifier. With `classifier: frozen`, it is not trained.
        group_of_class: Group of each class.
        log_prior: Log of each class's share of the training images; used with `prior_in_loss`.
    """

    def __init__(
        self,
        settings: config.LogitFusion,
        classifier: Linear,
        group_of_class: Int64[Tensor, " classes"],
        log_prior: Float[Tensor, " classes"],
    ) -> None:
        super().__init__()
        self.kind = settings.weight
        self.classifier = classifier.requires_grad_(settings.classifier == "trained")
        members = torch.from_numpy(longtail.group_membership(group_of_class.numpy(), settings.groups))
        self.register_buffer("group_of_class", group_of_class)
        self.register_buffer("log_prior", log_prior if settings.prior_in_loss else None, persistent=False)
        self.top_logits = TopLogits(members, settings.top_k)
        self.fusion = Fusion(self.top_logits.width, settings.groups, settings.fusion_width, settings.weight)

    def forward(self, features: Float[Tensor, "samples *sequence width"]) -> Float[Tensor, "samples classes"]:
        """Return the logits."""
        logits = self.classifier(features)
        weights = self.fusion(self.top_logits(logits))
        return modulated_logits(logits, weights, self.get_buffer("group_of_class"), self.kind)

    def loss(
        self, features: Float[Tensor, "samples *sequence width"], labels: Int64[Tensor, " samples"]
    ) -> tuple[Float[Tensor, ""], Mapping[str, Tensor]]:
        """Return the mean cross-entropy, with the class prior if the settings require it, and metrics to log."""
        return loss_with_prior(self(features), labels, self.get_buffer("log_prior"))
