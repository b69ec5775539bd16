"""Expert assignment of RIDE (Wang et al. 2021, section 3.3): a head that stops at the first sufficient expert."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from mem import config
from mem.heads.base import Head, accuracy, pooled_feature
from mem.heads.ensemble import ExpertEnsemble


def running_means(logits: Float[Tensor, "samples experts classes"]) -> Float[Tensor, "samples experts classes"]:
    """Return the mean logits of the first 1, 2, ..., E experts."""
    number = torch.arange(1, logits.shape[1] + 1, device=logits.device, dtype=logits.dtype)
    return logits.cumsum(dim=1) / number[:, None]


def helpful(
    running: Float[Tensor, "samples experts classes"], labels: Int64[Tensor, " samples"]
) -> Bool[Tensor, "samples decisions"]:
    """Return whether further experts help: the prediction after an expert is wrong, and a later one is right.

    Args:
        running: Result of `running_means`.
        labels: True classes.
    """
    right = running.argmax(dim=2) == labels[:, None]
    later = right.flip(1).cummax(dim=1).values.flip(1)
    return ~right[:, :-1] & later[:, 1:]


class RideRouterHead(Head):
    """An ensemble of experts that is evaluated expert by expert, until a router decides that no further one helps.

    After each expert but the last, the router's input is the largest mean logits of the experts so far, in descending
    order, and a hidden layer on the L2-normalised feature of the last expert. Each decision has a hidden layer of its
    own; all share the output layer. The experts are not trained.

    Source: frank-xwang/RIDE-LongTailRecognition at ab8be5c, model/fb_resnets/EAResNet.py and
    model/ldam_drw_resnets/ea_resnet_cifar.py. Differences: the features are stored, so that an early exit saves no time
    here, and `experts_used` says what it would save. The learning rate decreases with every step, not with every
    epoch, and SGD has no Nesterov momentum. A feature of length 0 stays 0; the official code divides by 0. With fewer
    classes than `top_logits`, all logits are used; the official code fails. All layers have PyTorch's default
    initialisation; on CIFAR, the official code uses Kaiming's normal distribution.

    Args:
        settings: Settings of the head.
        ensemble: The finetuned classifiers of the experts.
    """

    def __init__(self, settings: config.RideRouter, ensemble: ExpertEnsemble) -> None:
        super().__init__()
        self.settings = settings
        self.ensemble = ensemble.requires_grad_(False)
        experts, classes, width = ensemble.weight.shape
        self.top_logits = min(settings.top_logits, classes)
        self.hidden = nn.ModuleList(nn.Linear(width, settings.hidden_width) for _ in range(experts - 1))
        self.output = nn.Linear(self.top_logits + settings.hidden_width, 1)

    def forward(self, features: Float[Tensor, "samples *sequence width"]) -> Float[Tensor, "samples classes"]:
        """Return the mean logits of the experts that the router uses for each sample."""
        return self.route(features)[0]

    def route(
        self, features: Float[Tensor, "samples *sequence width"]
    ) -> tuple[Float[Tensor, "samples classes"], Int64[Tensor, " samples"]]:
        """Return the logits, and the number of experts used for each sample."""
        running, scores = self.decide(features)
        return self._routed(running, scores)

    def _routed(
        self, running: Float[Tensor, "samples experts classes"], scores: Float[Tensor, "samples decisions"]
    ) -> tuple[Float[Tensor, "samples classes"], Int64[Tensor, " samples"]]:
        continues = (scores.sigmoid() > self.settings.threshold).long().cumprod(dim=1)
        used = 1 + continues.sum(dim=1)
        last = (used - 1)[:, None, None].expand(-1, 1, running.shape[2])
        return running.gather(1, last).squeeze(1), used

    def decide(
        self, features: Float[Tensor, "samples *sequence width"]
    ) -> tuple[Float[Tensor, "samples experts classes"], Float[Tensor, "samples decisions"]]:
        """Return the result of `running_means`, and the logit of the probability that further experts help."""
        pooled = pooled_feature(features)
        running = running_means(self.ensemble.expert_logits(pooled))
        own = F.normalize(self.ensemble.expert_features(pooled), dim=2)
        largest = running.topk(self.top_logits, dim=2).values
        scores = [
            self.output(torch.cat([largest[:, e], F.relu(layer(own[:, e]))], dim=1)).squeeze(1)
            for e, layer in enumerate(self.hidden)
        ]
        return running, torch.stack(scores, dim=1)

    def loss(
        self, features: Float[Tensor, "samples *sequence width"], labels: Int64[Tensor, " samples"]
    ) -> tuple[Float[Tensor, ""], Mapping[str, Tensor]]:
        """Return the weighted binary cross-entropy, averaged over decisions and samples, and metrics to log.

        `acc1` is in percent. `experts_used` is the mean number of experts.
        """
        running, scores = self.decide(features)
        weight = scores.new_tensor(self.settings.positive_weight)
        target = helpful(running, labels).to(scores.dtype)
        loss = F.binary_cross_entropy_with_logits(scores, target, pos_weight=weight)
        with torch.no_grad():
            logits, used = self._routed(running, scores)
        metrics = {"acc1": 100 * accuracy(logits, labels), "experts_used": used.to(scores.dtype).mean()}
        return loss, metrics
