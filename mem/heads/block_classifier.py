"""A control for MEM: plain transformer blocks on the inputs of its sub-networks, followed by a linear classifier."""

from __future__ import annotations

from collections.abc import Mapping

from jaxtyping import Float, Int64
from torch import Tensor, nn

from mem import config
from mem.heads.base import Head, Linear, pooled_feature
from mem.heads.mem.one_token_block import EPS
from mem.heads.mem.subnetworks import SubNetworks
from mem.heads.prior import loss_with_prior


class BlockClassifierHead(Head):
    """A classifier with logits W norm(mean(blocks(tokens))) + b, optionally added to those of a linear classifier.

    The blocks have the architecture of one of MEM's sub-networks: a linear embedding, pre-norm transformer blocks and
    the mean over tokens. A layer norm follows, as after the last block of a pre-norm transformer. In an addition to a
    linear classifier, W and b start from 0, so that the initial head predicts the same as the linear classifier.

    Args:
        settings: Settings of the head.
        shape: Number of classes and width of the features.
        base: The linear classifier whose logits are added, or None. With `classifier: frozen`, it is not trained.
        log_prior: Log of each class's share of the training images; used with `prior_in_loss`.
    """

    def __init__(
        self,
        settings: config.BlockClassifier,
        shape: tuple[int, int],
        base: Linear | None,
        log_prior: Float[Tensor, " classes"],
    ) -> None:
        super().__init__()
        classes, features = shape
        self.uses_tokens = settings.input == "tokens"
        self.classifier = None if base is None else base.requires_grad_(settings.classifier == "trained")
        self.register_buffer("log_prior", log_prior if settings.prior_in_loss else None, persistent=False)
        self.blocks = SubNetworks(1, features, settings.width, settings.depth)
        self.norm = nn.LayerNorm(settings.width, eps=EPS)
        self.out = nn.Linear(settings.width, classes)
        if base is not None:
            nn.init.zeros_(self.out.weight)
            nn.init.zeros_(self.out.bias)

    def forward(self, features: Float[Tensor, "samples *sequence width"]) -> Float[Tensor, "samples classes"]:
        """Return the logits."""
        tokens = features[:, 1:] if self.uses_tokens else pooled_feature(features)[:, None]
        logits = self.out(self.norm(self.blocks(tokens)[0]))
        return logits if self.classifier is None else self.classifier(features) + logits

    def loss(
        self, features: Float[Tensor, "samples *sequence width"], labels: Int64[Tensor, " samples"]
    ) -> tuple[Float[Tensor, ""], Mapping[str, Tensor]]:
        """Return the mean cross-entropy, with the class prior if the settings require it, and metrics to log."""
        return loss_with_prior(self(features), labels, self.get_buffer("log_prior"))
