"""A classifier that is trained with momentum contrast (He et al. 2020): projector, key encoder and queue.

All of it is one module, so that a checkpoint contains the complete state. Only `classifier` is evaluated and saved
after training.
"""

from __future__ import annotations

import copy

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from mem import config
from mem.errors import UserError
from mem.models.backbones.base import BackboneClassifier
from mem.models.batch_norm import SampleBatchNorm
from mem.models.drop_path import set_random_numbers
from mem.models.moving_average import move_averages
from mem.models.recompute import recompute_activations
from mem.models.training_module import TrainingModule

NO_LABEL = -1
"""Label of an entry of the queue that contains no key yet."""


class Projector(nn.Module):
    """A hidden layer with ReLU and, optionally, BatchNorm, and a linear layer. The outputs have length 1.

    Args:
        width: Dimension of the features and of the hidden layer.
        settings: Dimension of the projections, and whether there is a BatchNorm.
        norm_batch: Number of samples over which BatchNorm computes statistics.
    """

    def __init__(self, width: int, settings: config.Contrast, norm_batch: int) -> None:
        super().__init__()
        # A bias before BatchNorm has no effect.
        self.hidden = nn.Linear(width, width, bias=not settings.projector_norm)
        self.norm = SampleBatchNorm(nn.BatchNorm2d(width), norm_batch) if settings.projector_norm else nn.Identity()
        self.out = nn.Linear(width, settings.width)

    def forward(self, features: Float[Tensor, "samples width"]) -> Float[Tensor, "samples projection"]:
        """Return the projections, in the precision of the weights."""
        hidden = self.norm(self.hidden(features)[:, :, None, None])[:, :, 0, 0]
        # Under autocast, the norm of a vector would be rounded to bfloat16.
        return F.normalize(self.out(hidden.relu()).to(self.out.weight.dtype), dim=1)


class ContrastiveClassifier(TrainingModule):
    """A classifier, its projector, a key encoder, and the queue of the newest keys.

    The key encoder is a copy of the classifier and the projector. Its weights are moving averages. Its BatchNorm layers
    have running statistics of their own, as in MoCo. With experts, each expert has a projector and its own keys.

    Args:
        classifier: The classifier, on its device. It is trained.
        settings: Settings of the key encoder and the queue.
        norm_batch: Number of samples over which BatchNorm layers compute statistics.

    Raises:
        UserError: The BatchNorm of the projector would normalise single samples.
    """

    def __init__(self, classifier: BackboneClassifier, settings: config.Contrast, norm_batch: int) -> None:
        super().__init__()
        if settings.projector_norm and norm_batch < 2:
            raise UserError(
                "objective.contrast.projector_norm: the BatchNorm of the projector requires groups of at least 2 "
                "samples, but they contain 1. Set backbone.norm_batch, or finetune.global_batch, to 2 or more, or "
                "projector_norm to false."
            )
        self.classifier = classifier
        self.projectors = nn.ModuleList(
            Projector(classifier.width, settings, norm_batch) for _ in range(classifier.experts)
        )
        self.key_classifier = copy.deepcopy(classifier).requires_grad_(False)
        self.key_projectors = copy.deepcopy(self.projectors).requires_grad_(False)
        experts = (classifier.experts,) if classifier.experts > 1 else ()
        self.register_buffer("queue", torch.zeros(settings.queue, *experts, settings.width))
        self.register_buffer("queue_labels", torch.full((settings.queue,), NO_LABEL))
        self.register_buffer("queue_position", torch.zeros((), dtype=torch.int64))
        self.settings = settings
        self._new_keys: tuple[Tensor, Tensor] | None = None

    @property
    def saved_part(self) -> BackboneClassifier:
        """The classifier, without the projectors, the key encoder and the queue."""
        return self.classifier

    @property
    def branches(self) -> int:
        """Number of residual branches that stochastic depth can drop."""
        return self.classifier.branches

    def has_norm_groups(self, global_batch: int) -> bool:
        """Return whether BatchNorm layers compute statistics over parts of the global batch."""
        return any(isinstance(m, SampleBatchNorm) and m.norm_batch < global_batch for m in self.modules())

    def forward(
        self,
        images: Float[Tensor, "samples 3 rows columns"],
        second_views: Float[Tensor, "samples 3 rows columns"],
        drop_path_numbers: Float[Tensor, "samples branches"] | None = None,
        key_drop_path_numbers: Float[Tensor, "samples branches"] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits and queries of the first views, and keys of the second views.

        The first and second views may show different images. Gradients do not flow through the keys.

        Returns:
            Logits of shape (samples, *experts, classes), and queries and keys of shape (samples, *experts, width).
        """
        features = _features(self.classifier, images, drop_path_numbers)
        logits = _stack([layer(z) for layer, z in zip(self.classifier.classifiers, features, strict=True)])
        queries = _stack([project(z) for project, z in zip(self.projectors, features, strict=True)])
        with torch.no_grad():
            features = _features(self.key_classifier, second_views, key_drop_path_numbers)
            keys = _stack([project(z) for project, z in zip(self.key_projectors, features, strict=True)])
        return logits, queries, keys

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Choose whether the backward pass of the classifier computes activations again; see `mem.models.recompute`."""
        recompute_activations(self.classifier, "the classifier", enable)

    def keep_keys(self, keys: Float[Tensor, "all *experts width"], labels: Int64[Tensor, " all"]) -> None:
        """Keep the keys of the global batch for the end of the step. They replace those that were kept before."""
        self._new_keys = keys.detach(), labels

    @torch.no_grad()
    def end_step(self, skipped: Bool[Tensor, ""] | None = None) -> None:
        """Move the key encoder towards the trained weights, and replace the oldest keys of the queue.

        Call this after the optimizer's step, on all ranks. The result is the same on all of them.

        Args:
            skipped: Flag on the device. If set, the key encoder and the queue remain unchanged.
        """
        assert self._new_keys is not None, "the step has no keys; call keep_keys first"
        pairs = [(self.key_classifier, self.classifier), (self.key_projectors, self.projectors)]
        averages: list[Tensor] = [parameter for averaged, _ in pairs for parameter in averaged.parameters()]
        weights: list[Tensor] = [parameter for _, trained in pairs for parameter in trained.parameters()]
        move_averages(averages, weights, self.settings.momentum, skipped)
        self._replace_oldest(*self._new_keys, skipped)
        self._new_keys = None

    def _replace_oldest(self, keys: Tensor, labels: Tensor, skipped: Bool[Tensor, ""] | None) -> None:
        queue, queue_labels = self.get_buffer("queue"), self.get_buffer("queue_labels")
        position = self.get_buffer("queue_position")
        oldest = (position + torch.arange(len(keys), device=keys.device)) % len(queue)
        next_position = (position + len(keys)) % len(queue)
        keys = keys.to(queue.dtype)
        if skipped is not None:
            # The keys of a skipped step may be NaN. The flag is not read, because this would wait for the device.
            keys = torch.where(skipped, queue[oldest], keys)
            labels = torch.where(skipped, queue_labels[oldest], labels)
            next_position = torch.where(skipped, position, next_position)
        queue.index_copy_(0, oldest, keys)
        queue_labels.index_copy_(0, oldest, labels)
        position.copy_(next_position)


def _features(classifier: BackboneClassifier, images: Tensor, drop_path_numbers: Tensor | None) -> tuple[Tensor, ...]:
    """Return the pooled features of each expert, or of the only classifier."""
    set_random_numbers(classifier.backbone, drop_path_numbers)
    pooled = classifier.features(images)[0]
    return pooled.view(len(pooled), classifier.experts, classifier.width).unbind(1)


def _stack(values: list[Tensor]) -> Tensor:
    """Stack the values of several experts. Without experts, return the only value."""
    return values[0] if len(values) == 1 else torch.stack(values, dim=1)
