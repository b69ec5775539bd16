"""The step of finetuning: from a batch of images to the mean of the finetuning's loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from mem import config
from mem.config.finetune_variants import check_whole_batch
from mem.data.augment.erasing import random_erase
from mem.data.augment.mixing import Mixing, mix
from mem.data.batch import Batch
from mem.distributed import RankGroup, World
from mem.errors import UserError
from mem.heads.base import accuracy
from mem.models.pixels import Pixels
from mem.objectives.base import FinetuningLoss, Targets, at_least_float32


@dataclass(frozen=True)
class Classification:
    """Objective of the training loop for a classifier: a function of a model replica and a batch.

    Random erasing, mixing and stochastic depth of a sample depend only on the sample's random numbers. The accuracy is
    that of the plain logits or, with experts, of the mean of their plain logits. For a mixed sample, it uses the label
    with the larger share.
    """

    pixels: Pixels
    loss: FinetuningLoss
    branches: int
    """Number of residual branches that stochastic depth can drop."""
    erasing: float = 0
    """Probability of random erasing."""
    mixing: Mixing | None = None
    """Mixup and CutMix settings, or None if samples are not mixed."""
    global_batch: int = 1
    """Number of samples per step, over all ranks."""
    images: int = 1
    """Number of training images, which is the number of samples per epoch."""
    rank_group: RankGroup | None = None
    """All ranks, if the loss requires the complete global batch and there are several ranks."""

    def __call__(self, replica: nn.Module, batch: Batch) -> tuple[Float[Tensor, ""], Mapping[str, Tensor]]:
        """Return the mean loss over the batch, and the accuracy in percent.

        If the loss requires the complete global batch, the mean is over the global batch on every rank.
        """
        images = random_erase(self.pixels.normalise(batch.inputs), batch, self.erasing)
        drop_path_numbers = batch.uniforms("drop path", self.branches) if self.branches else None
        # All samples of a step have the same position, so that ranks and micro-batches have no effect.
        epoch = batch.first // self.global_batch * self.global_batch / self.images
        if self.mixing is None:
            targets, labels = Targets(batch.labels, epoch=epoch), batch.labels
        else:
            samples = mix(images, batch, self.mixing)
            images, labels = samples.images, samples.main_labels
            targets = Targets(samples.labels, samples.partner_labels, samples.shares, epoch)
        logits = replica(images, drop_path_numbers)
        metrics = {"acc1": 100 * accuracy(self.loss.predictions(logits), labels)}
        if self.rank_group is not None:
            logits, targets = self._global_batch(self.rank_group, logits, targets)
        return self.loss(logits, targets).mean(), metrics

    def _global_batch(
        self, group: RankGroup, logits: Float[Tensor, "samples *experts classes"], targets: Targets
    ) -> tuple[Float[Tensor, "all *experts classes"], Targets]:
        """Return the logits and targets of all ranks. All ranks have the same number of samples.

        Every rank computes the same loss. The backward pass of `gather` adds up the gradients of all ranks, and the
        replica averages them, so that the result is the gradient of the loss of the global batch.
        """
        all_logits = group.gather(at_least_float32(logits)).flatten(0, 1)
        labels = group.gather(targets.labels).flatten()
        if targets.mixed is None:
            return all_logits, Targets(labels, epoch=targets.epoch)
        partners, shares = targets.mixed
        mixed = group.gather(partners).flatten(), group.gather(shares).flatten()
        return all_logits, Targets(labels, *mixed, epoch=targets.epoch)


def require_global_batch(finetune: config.Finetune, compute: config.Compute, world: World) -> RankGroup | None:
    """Check that an objective that requires the complete global batch can have it.

    Returns:
        The ranks that exchange logits, or None if no exchange is necessary.

    Raises:
        UserError: The global batch cannot be divided into equal parts, or a part would be divided into micro-batches.
    """
    try:
        check_whole_batch("finetune", finetune, world.size, compute.micro_batch)
    except ValueError as error:
        raise UserError(str(error)) from None
    return world.subgroup(world.size) if finetune.whole_batch and world.size > 1 else None
