"""The modulator on top of a linear classifier (figure 2 of the paper), and its training loss (eq. 9 and 10)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from mem import config, longtail
from mem.heads.base import Linear, accuracy, pooled_feature
from mem.heads.mem.data_aware import modulated_logits, read_logits
from mem.heads.mem.fusion import Fusion, TopLogits
from mem.heads.mem.modulated import ModulatedHead
from mem.heads.mem.objective import regularisation_objective
from mem.heads.mem.subnetworks import SubNetworks
from mem.losses import cross_entropy


class MemHead(ModulatedHead):
    """A linear classifier whose logits are adjusted by one weight per group of classes.

    Args:
        settings: Settings of the head, including the reading of the paper; see docs/explanation/mem.md.
        classifier: The linear classifier to modulate. With `classifier: frozen`, it is not trained.
        group_of_class: Group of each class, from 0 to `settings.groups` - 1.
        log_prior: Log of each class's share of the training images; required with `prior_in_loss`.
    """

    def __init__(
        self,
        settings: config.Mem,
        classifier: Linear,
        group_of_class: Int64[Tensor, " classes"],
        log_prior: Float[Tensor, " classes"] | None = None,
    ) -> None:
        super().__init__()
        self.settings = settings
        self.uses_tokens = settings.input == "tokens"
        self.classifier = classifier
        if settings.classifier == "frozen":
            classifier.requires_grad_(False)
        members = torch.from_numpy(longtail.group_membership(group_of_class.numpy(), settings.groups))
        self.register_buffer("group_of_class", group_of_class)
        self.register_buffer("log_prior", log_prior if settings.prior_in_loss else None, persistent=False)
        self.subnetworks = SubNetworks(settings.groups, classifier.weight.shape[1], settings.width, settings.depth)
        self.top_logits = TopLogits(members, settings.top_k)
        self.fusion = Fusion(
            settings.groups + self.top_logits.width,
            settings.groups,
            settings.fusion_width,
            settings.weight,
            settings.fusion_init,
        )
        if settings.temperature == "learned":
            self.log_temperature = nn.Parameter(torch.zeros(()))

    def forward(self, features: Float[Tensor, "samples *sequence width"]) -> Float[Tensor, "samples classes"]:
        """Return the data-aware logits (eq. 8)."""
        return self.modulate(features)[0]

    def modulate(
        self, features: Float[Tensor, "samples *sequence width"]
    ) -> tuple[Float[Tensor, "samples classes"], Float[Tensor, "samples groups"], Float[Tensor, "samples groups"]]:
        """Return the data-aware logits (eq. 8), the group weights w (eq. 7) and the norms Q of the sub-networks."""
        norms = self._norms(features)
        return *self._classify(features, norms), norms

    def _norms(self, features: Float[Tensor, "samples *sequence width"]) -> Float[Tensor, "samples groups"]:
        tokens = features[:, 1:] if self.settings.input == "tokens" else pooled_feature(features)[:, None]
        return self.subnetworks.norms(tokens, self.settings.pool)

    def _classify(
        self, features: Float[Tensor, "samples *sequence width"], norms: Float[Tensor, "samples groups"]
    ) -> tuple[Float[Tensor, "samples classes"], Float[Tensor, "samples groups"]]:
        """Return the data-aware logits and the group weights for given norms."""
        settings = self.settings
        logits = read_logits(self.classifier(features), settings.logits)
        signals = norms.detach() if settings.detach_norms else norms
        signals = signals / settings.xi if settings.norms == "scaled" else signals
        weights = self.fusion(torch.cat([signals, self.top_logits(logits)], dim=1))
        modulated = modulated_logits(logits, weights, self.get_buffer("group_of_class"), settings.weight)
        if settings.temperature == "learned":
            modulated = modulated * (-self.log_temperature).exp()
        elif settings.temperature != 1:
            modulated = modulated / settings.temperature
        return modulated, weights

    def loss(
        self, features: Float[Tensor, "samples *sequence width"], labels: Int64[Tensor, " samples"]
    ) -> tuple[Float[Tensor, ""], Mapping[str, Tensor]]:
        """Return L_DAC + `reo_weight` * L_REO over the batch (eq. 9 and 10), and metrics to log.

        With `phases: regularisation_first`, this is the loss of the second phase: L_DAC, which does not train the
        sub-networks.

        `acc1` and `group_by_norm` are in percent. `group_by_norm` is the share of samples for which the sub-network of
        the true group has the largest norm.
        """
        if self.settings.phases == "joint":
            dac, reo, metrics = self._losses(features, labels)
            return dac + reo, metrics
        dac, _, metrics = self._losses(features, labels, train_subnetworks=False)
        return dac, metrics

    def first_phase_loss(
        self, features: Float[Tensor, "samples *sequence width"], labels: Int64[Tensor, " samples"]
    ) -> tuple[Float[Tensor, ""], Mapping[str, Tensor]]:
        """Return `reo_weight` * L_REO, which trains only the sub-networks, and the metrics of `loss`."""
        _, reo, metrics = self._losses(features, labels, train_classifier=False)
        return reo, metrics

    def first_phase_steps(self, steps: int) -> int:
        """Return the number of steps in the first phase. Every phase has at least one step if there are two steps."""
        if self.settings.phases == "joint":
            return 0
        return min(max(1, round(self.settings.first_phase * steps)), steps - 1)

    def _losses(
        self,
        features: Float[Tensor, "samples *sequence width"],
        labels: Int64[Tensor, " samples"],
        *,
        train_subnetworks: bool = True,
        train_classifier: bool = True,
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""], Mapping[str, Tensor]]:
        """Return L_DAC, the weighted L_REO and metrics.

        Parameters that are not to be trained have no gradient, so that the optimizer skips them and their weight decay.
        """
        settings, with_gradient = self.settings, torch.is_grad_enabled()
        with torch.set_grad_enabled(with_gradient and train_subnetworks):
            norms = self._norms(features)
        with torch.set_grad_enabled(with_gradient and train_classifier):
            logits, _ = self._classify(features, norms)
            adjusted = logits + self.get_buffer("log_prior") if settings.prior_in_loss else logits
            dac = cross_entropy(adjusted, labels).mean()
        group_of_sample = self.get_buffer("group_of_class")[labels]
        reo = regularisation_objective(norms, group_of_sample, settings.xi, settings.mu)
        group_accuracy = 100 * (norms.argmax(dim=1) == group_of_sample).float().mean()
        metrics = {"dac": dac, "reo": reo, "acc1": 100 * accuracy(logits, labels), "group_by_norm": group_accuracy}
        weight = settings.reo_weight / (settings.xi**2 if settings.reo_scale == "xi_squared" else 1)
        return dac, weight * reo, metrics

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the trained parameters, those of the classifier with their own scale of the learning rate."""
        if self.settings.classifier == "frozen" or self.settings.classifier_lr_scale == 1:
            return super().parameter_groups()
        modulator = [p for name, p in self.named_parameters() if not name.startswith("classifier.")]
        scaled = {"params": list(self.classifier.parameters()), "lr_scale": self.settings.classifier_lr_scale}
        return [{"params": modulator}, scaled]
