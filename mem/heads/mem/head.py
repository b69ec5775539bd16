"""The whole modulator on a linear classifier: the paper's figure 2."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from mem import config, longtail
from mem.heads.base import Head, Linear, accuracy, pool_tokens
from mem.heads.mem.fusion import Fusion, TopLogits, data_aware_logits
from mem.heads.mem.objective import regularisation_objective
from mem.heads.mem.subnetworks import SubNetworks, magnitudes
from mem.losses import cross_entropy


class MemHead(Head):
    """Sub-networks, fusion and data-aware classifier.

    Args:
        settings: The reading of the paper; see docs/explanation/mem.md.
        classifier: The linear classifier that is modulated.
        group_of_class: Group of each class.
    """

    def __init__(self, settings: config.Mem, classifier: Linear, group_of_class: Int64[Tensor, " classes"]) -> None:
        super().__init__()
        self.settings = settings
        self.classifier = classifier
        if settings.classifier == "frozen":
            classifier.requires_grad_(False)
        members = torch.from_numpy(longtail.members(group_of_class.numpy(), settings.groups))
        self.register_buffer("group_of_class", group_of_class)
        self.subnetworks = SubNetworks(settings.groups, classifier.weight.shape[1], settings.width, settings.depth)
        self.top_logits = TopLogits(members, settings.top_k)
        self.fusion = Fusion(
            settings.groups, self.top_logits.width, settings.fusion_width, settings.xi, settings.weight
        )

    def forward(self, features: Float[Tensor, "samples *sequence width"]) -> Float[Tensor, "samples classes"]:
        """Data-aware logits."""
        return self.modulate(features)[0]

    def modulate(
        self, features: Float[Tensor, "samples *sequence width"]
    ) -> tuple[Float[Tensor, "samples classes"], Float[Tensor, "samples groups"], Float[Tensor, "samples groups"]]:
        """Data-aware logits, group weights w and group norms Q."""
        logits = self.classifier(features)
        tokens = features[:, 1:] if self.settings.input == "tokens" else pool_tokens(features)[:, None]
        norms = magnitudes(self.subnetworks(tokens))
        weights = self.fusion(norms, self.top_logits(logits))
        modulated = data_aware_logits(
            logits, weights, self.get_buffer("group_of_class"), additive=self.settings.weight == "additive"
        )
        return modulated, weights, norms

    def loss(
        self, features: Float[Tensor, "samples *sequence width"], labels: Int64[Tensor, " samples"]
    ) -> tuple[Float[Tensor, ""], Mapping[str, Tensor]]:
        """L_DAC + reo_weight * L_REO (eq. 9 and 10), both over the batch."""
        logits, _, norms = self.modulate(features)
        group_of = self.get_buffer("group_of_class")[labels]
        dac = cross_entropy(logits, labels).mean()
        reo = regularisation_objective(norms, group_of, self.settings.xi, self.settings.mu)
        right_group = 100 * (norms.argmax(dim=1) == group_of).float().mean()
        metrics = {"dac": dac, "reo": reo, "acc1": 100 * accuracy(logits, labels), "group_by_norm": right_group}
        return dac + self.settings.reo_weight * reo, metrics
