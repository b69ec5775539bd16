"""Image batches from .beton files for training, evaluation and augmented views.

Threads decode, crop, resize, flip and augment images as uint8 (`mem.data.loading.builder`). Normalisation, random
erasing, mixup and CutMix then run on the device (`mem.models.pixels`, `mem.data.augment`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Int64

from mem.config import Augmentation, Crops
from mem.data.augment.pixel_ops import Color, ImageArray
from mem.data.batch import Batch
from mem.data.beton.reader import Beton
from mem.data.loading.builder import BatchBuilder, BatchRequest
from mem.data.loading.crop_views import crops_of_views
from mem.data.loading.samplers import Sampler
from mem.data.loading.shard import RankShard
from mem.data.loading.transforms import GREY, Augmenter, BatchTransform, plain_transform


@dataclass(frozen=True)
class TrainingImages:
    """Full batches of augmented training images, starting at any step.

    Sample n (of step n // global_batch) is the same image with the same augmentation for any number of workers and
    ranks, even if training is interrupted and resumed. This also applies to the second view of a sample.
    """

    images: Beton
    sampler: Sampler
    global_batch: int
    side: int
    """Height and width of a sample, in pixels."""
    augmentation: Augmentation
    seed: int
    workers: int
    shard: RankShard = field(default_factory=RankShard)
    group_size: int = 1
    """Number of consecutive samples that stay on the same rank and in the same micro-batch."""
    fill: Color = GREY
    """Fill colour for the area outside an image transformed by RandAugment."""
    second_augmentation: Augmentation | None = None
    """Augmentation of the second view of each sample. None if each sample has one view."""

    def from_step(self, step: int, until: int) -> Iterator[Batch]:
        """Yield this rank's part of the batches `step` to `until - 1`."""
        return BatchBuilder(self.images, self.side, self.workers).build(self._request(s) for s in range(step, until))

    def _request(self, step: int) -> BatchRequest:
        low, high = self.shard.bounds(self.global_batch, self.group_size)
        first = step * self.global_batch + low
        indices = self.sampler.indices(first, high - low)
        augmenter = Augmenter(self.augmentation, self.seed, self.fill)
        transform, second = augmenter.of_samples(self.images, indices, first), None
        if self.second_augmentation is not None:
            augmenter = Augmenter(self.second_augmentation, self.seed, self.fill)
            second = augmenter.of_samples(self.images, indices, first, second=True)
        return BatchRequest(indices, transform, first, self.seed, self.group_size, second)


@dataclass(frozen=True)
class ImageViews:
    """Views of a split's images. View 0 is the evaluation view without augmentation; views 1, 2, ... are augmented.

    With `crops`, the views are the crops of each image whose logits are averaged.
    """

    images: Beton
    side: int
    """Height and width of a sample, in pixels."""
    center_crop: float
    """Side of the evaluation crop as a fraction of the image's shorter side."""
    augmentation: Augmentation | None
    """None if there is only the evaluation view."""
    seed: int
    workers: int
    fill: Color = GREY
    """Fill colour for the area outside an image transformed by RandAugment."""
    crops: Crops | None = None
    """Several crops per image instead of the evaluation view and augmented views."""

    def of_view(self, indices: Int64[np.ndarray, " images"], view: int, batch: int) -> Iterator[Batch]:
        """Yield one view of each image in `indices`, in this order, in batches of at most `batch` images."""
        parts = (indices[start : start + batch] for start in range(0, len(indices), batch))
        return self.batches((np.full(len(part), view), part) for part in parts)

    def batches(self, samples: Iterable[tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]]) -> Iterator[Batch]:
        """Yield one batch per pair of arrays (views, indices), which specify the view and the image of each sample."""
        requests = (
            BatchRequest(indices, self._transform(views, indices), seed=self.seed) for views, indices in samples
        )
        return BatchBuilder(self.images, self.side, self.workers).build(requests)

    def _transform(self, views: np.ndarray, indices: np.ndarray) -> BatchTransform:
        if self.crops is not None:
            sizes = self.images.heights[indices], self.images.widths[indices]
            return BatchTransform(crops_of_views(*sizes, views, self.crops, self.side))
        crops = np.empty((len(indices), 4), dtype=np.int64)
        mirrored = np.zeros(len(indices), dtype=bool)
        changes: dict[int, tuple[Callable[[int, ImageArray], None], int]] = {}
        for view in np.unique(views).tolist():
            positions = np.flatnonzero(views == view)
            transform = self._transform_of_view(indices[positions], view)
            assert isinstance(transform.crops, np.ndarray), "these views are cut from the stored images"
            crops[positions] = transform.crops
            if transform.mirrored is not None:
                mirrored[positions] = transform.mirrored
            if transform.change:
                changes |= {position: (transform.change, i) for i, position in enumerate(positions.tolist())}

        def change(i: int, image: ImageArray) -> None:
            if i in changes:
                change_in_view, number = changes[i]
                change_in_view(number, image)

        return BatchTransform(crops, mirrored, change if changes else None)

    def _transform_of_view(self, indices: np.ndarray, view: int) -> BatchTransform:
        if view == 0:
            return plain_transform(self.images, indices, self.center_crop)
        assert self.augmentation is not None
        return Augmenter(self.augmentation, self.seed, self.fill).of_view(self.images, indices, view)


def plain_batches(
    images: Beton, indices: Int64[np.ndarray, " samples"], batch: int, side: int, center_crop: float, workers: int
) -> Iterator[Batch]:
    """Yield batches of the images `indices`, in this order, with the evaluation transform."""
    return ImageViews(images, side, center_crop, None, seed=0, workers=workers).of_view(indices, 0, batch)
