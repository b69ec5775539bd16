"""The modulator on top of a linear classifier (figure 2 of the paper), and its training loss (eq. 9 and 10)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from mem import config, longtail
from mem.heads.base import Head, Linear, accuracy, pooled_feature
from mem.heads.mem.fusion import Fusion, TopLogits, data_aware_logits
from mem.heads.mem.objective import regularisation_objective
from mem.heads.mem.subnetworks import SubNetworks, embedding_norms
from mem.losses import cross_entropy


class MemHead(Head):
    """A linear classifier whose logits are adjusted by one weight per group of classes.

    Args:
        settings: Settings of the head, including the interpretation of the paper; see docs/explanation/mem.md.
        classifier: The linear classifier to modulate. With `classifier: frozen`, it is not trained.
        group_of_class: Group of each class, from 0 to `settings.groups` - 1.
    """

    def __init__(self, settings: config.Mem, classifier: Linear, group_of_class: Int64[Tensor, " classes"]) -> None:
        super().__init__()
        self.settings = settings
        self.classifier = classifier
        if settings.classifier == "frozen":
            classifier.requires_grad_(False)
        members = torch.from_numpy(longtail.group_membership(group_of_class.numpy(), settings.groups))
        self.register_buffer("group_of_class", group_of_class)
        self.subnetworks = SubNetworks(settings.groups, classifier.weight.shape[1], settings.width, settings.depth)
        self.top_logits = TopLogits(members, settings.top_k)
        self.fusion = Fusion(
            settings.groups, self.top_logits.width, settings.fusion_width, settings.xi, settings.weight
        )

    def forward(self, features: Float[Tensor, "samples *sequence width"]) -> Float[Tensor, "samples classes"]:
        """Return the data-aware logits (eq. 8)."""
        return self.modulate(features)[0]

    def modulate(
        self, features: Float[Tensor, "samples *sequence width"]
    ) -> tuple[Float[Tensor, "samples classes"], Float[Tensor, "samples groups"], Float[Tensor, "samples groups"]]:
        """Return the data-aware logits (eq. 8), the group weights w (eq. 7) and the norms Q of the sub-networks."""
        logits = self.classifier(features)
        tokens = features[:, 1:] if self.settings.input == "tokens" else pooled_feature(features)[:, None]
        norms = embedding_norms(self.subnetworks(tokens))
        weights = self.fusion(norms, self.top_logits(logits))
        modulated = data_aware_logits(
            logits, weights, self.get_buffer("group_of_class"), additive=self.settings.weight == "additive"
        )
        return modulated, weights, norms

    def loss(
        self, features: Float[Tensor, "samples *sequence width"], labels: Int64[Tensor, " samples"]
    ) -> tuple[Float[Tensor, ""], Mapping[str, Tensor]]:
        """Return L_DAC + `reo_weight` * L_REO over the batch (eq. 9 and 10), and metrics to log.

        `acc1` and `group_by_norm` are in percent. `group_by_norm` is the share of samples for which the sub-network of
        the true group has the largest norm.
        """
        logits, _, norms = self.modulate(features)
        group_of_sample = self.get_buffer("group_of_class")[labels]
        dac = cross_entropy(logits, labels).mean()
        reo = regularisation_objective(norms, group_of_sample, self.settings.xi, self.settings.mu)
        group_accuracy = 100 * (norms.argmax(dim=1) == group_of_sample).float().mean()
        metrics = {"dac": dac, "reo": reo, "acc1": 100 * accuracy(logits, labels), "group_by_norm": group_accuracy}
        return dac + self.settings.reo_weight * reo, metrics
