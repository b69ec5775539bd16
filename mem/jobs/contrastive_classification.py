"""The step of finetuning with a contrastive objective: from two views of a batch of images to the mean loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from mem import config, rng
from mem.data.augment.erasing import random_erase
from mem.data.batch import Batch, to_device
from mem.distributed import RankGroup
from mem.heads.base import accuracy
from mem.jobs.classification import Classification
from mem.models.backbones import BackboneClassifier
from mem.models.contrastive_classifier import ContrastiveClassifier
from mem.models.pixels import Pixels
from mem.objectives.base import FinetuningLoss, Targets
from mem.objectives.projections import Projections


@dataclass(frozen=True)
class ContrastiveClassification:
    """Objective of the training loop for a `ContrastiveClassifier`: a function of a replica and a batch with two views.

    Each rank processes its part of the global batch at once. The loss of a rank is the mean over its samples, which it
    compares with the queries and keys of all ranks.
    """

    pixels: Pixels
    loss: FinetuningLoss
    model: ContrastiveClassifier
    """The module of which the replica is a copy or a wrapper. It provides the queue and receives the keys."""
    global_batch: int
    """Number of samples per step, over all ranks."""
    images: int = 1
    """Number of training images, which is the number of samples per epoch."""
    erasing: float = 0
    """Probability of random erasing of the first view."""
    rank_group: RankGroup | None = None
    """All ranks, or None if there is only one."""
    shuffles: bool = False
    """Whether the key encoder processes the samples of a step in random order, so that its BatchNorm groups differ from
    those of the queries. Otherwise, the statistics of a group could reveal which key belongs to a query (He et al.
    2020, section 3.3, "Shuffling BN")."""

    def __call__(self, replica: nn.Module, batch: Batch) -> tuple[Float[Tensor, ""], Mapping[str, Tensor]]:
        """Return the mean loss over the samples of this rank, and the accuracy of their plain logits in percent."""
        step, first = divmod(batch.first, self.global_batch)
        order = np.arange(self.global_batch)
        if self.shuffles:
            order = rng.permutation(batch.seed, "order of keys", step, self.global_batch)
        images = random_erase(self.pixels.normalise(batch.inputs), batch, self.erasing)
        numbers = batch.uniforms("drop path", self.model.branches) if self.model.branches else None
        part = order[first : first + len(batch)]
        logits, queries, keys = replica(
            images, self._second_views(batch, part), numbers, self._drop_path_numbers(batch, step, part)
        )
        device = batch.labels.device
        position = np.argsort(order)
        all_keys = self._of_all_ranks(keys).index_select(0, to_device(torch.from_numpy(position), device))
        all_labels = self._of_all_ranks(batch.labels)
        self.model.keep_keys(all_keys, all_labels)
        projections = Projections(
            queries,
            first,
            self._of_all_ranks(queries),
            all_keys,
            all_labels,
            self.model.get_buffer("queue"),
            self.model.get_buffer("queue_labels"),
        )
        targets = Targets(batch.labels, epoch=step * self.global_batch / self.images, projections=projections)
        metrics = {"acc1": 100 * accuracy(self.loss.predictions(logits), batch.labels)}
        return self.loss(logits, targets).mean(), metrics

    def _second_views(
        self, batch: Batch, part: Int64[np.ndarray, " samples"]
    ) -> Float[Tensor, "samples 3 rows columns"]:
        """Return the normalised second views of the samples `part` of the global batch."""
        assert batch.second is not None, "a contrastive objective requires two views of each image"
        if not self.shuffles:
            return self.pixels.normalise(batch.second)
        views = self._of_all_ranks(batch.second)
        return self.pixels.normalise(views.index_select(0, to_device(torch.from_numpy(part), views.device)))

    def _drop_path_numbers(
        self, batch: Batch, step: int, part: Int64[np.ndarray, " samples"]
    ) -> Float[Tensor, "samples branches"] | None:
        """Return the random numbers of the key encoder's stochastic depth for the samples `part` of the batch."""
        if not self.model.branches:
            return None
        samples = step * self.global_batch + part
        numbers = rng.uniforms_at(batch.seed, "second view drop path", samples, self.model.branches)
        return to_device(torch.from_numpy(numbers).to(torch.float32), batch.labels.device)

    def _of_all_ranks(self, values: Tensor) -> Tensor:
        """Return the values of all ranks in the order of the samples. Gradients flow back to the rank of each value."""
        return values if self.rank_group is None else self.rank_group.gather(values).flatten(0, 1)


def with_contrast(
    step: Classification, classifier: BackboneClassifier, settings: config.Finetune, norm_batch: int | None
) -> ContrastiveClassification:
    """Return the step of a contrastive objective, whose model contains the classifier.

    The model draws the initial weights of the projector from PyTorch's global random number generator.

    Args:
        step: The step of an objective that is not contrastive, with the loss of the contrastive objective.
        classifier: The classifier, on its device.
        settings: Settings of the finetuning, with a contrastive objective.
        norm_batch: Number of samples over which the BatchNorm layers of the classifier compute statistics; None if it
            has none. BatchNorm of the projector then computes them over the global batch.
    """
    assert settings.contrast is not None
    model = ContrastiveClassifier(classifier, settings.contrast, norm_batch or settings.global_batch)
    return ContrastiveClassification(
        step.pixels,
        step.loss,
        model.to(next(classifier.parameters()).device),
        settings.global_batch,
        step.images,
        step.erasing,
        step.rank_group,
        shuffles=model.has_norm_groups(settings.global_batch),
    )
