"""Training batches without labels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from mem.data.batch import Batch
from mem.data.loading.images import TrainingImages


@dataclass(frozen=True)
class UnlabelledImages:
    """The batches of `images`, in which every label is -1, so that nothing that reads the batches can use labels."""

    images: TrainingImages

    @property
    def global_batch(self) -> int:
        """Number of samples per batch over all ranks."""
        return self.images.global_batch

    def from_step(self, step: int, until: int) -> Iterator[Batch]:
        """Yield the batches `step` to `until - 1`."""
        for batch in self.images.from_step(step, until):
            yield replace(batch, labels=torch.full_like(batch.labels, -1))
