"""Batches of images from .beton files, made by threads ahead of their use: for training, evaluation and views.

Pictures are decoded, cropped, resized, mirrored and augmented as bytes, each by one thread from its own numbers; two
batches are in work at any time, so that no thread waits for the last picture of a batch. Normalising, erasing and
mixing come after, on the device (`mem.models.pixels`, `mem.data.augment`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from jaxtyping import Float64, Int64

from mem import rng
from mem.config import Augmentation
from mem.data.augment import color, crop, rand_augment
from mem.data.augment.pixel_ops import Color, Picture
from mem.data.beton.reader import Beton
from mem.data.loading.batch import Batch
from mem.data.loading.buffer_pool import BufferPool
from mem.data.loading.prefetch import prefetch
from mem.data.loading.samplers import Sampler

GREY: Color = (128, 128, 128)
"""Fills places outside of a picture where no other colour is given."""
_TASK = 16
"""Pictures that a thread makes before it takes the next task."""


@dataclass(frozen=True)
class RankShard:
    """The part of every global batch, or of a split, that one rank sees."""

    rank: int = 0
    ranks: int = 1

    def of(self, count: int, together: int = 1) -> tuple[int, int]:
        """First and one past the last of `count` samples; `together` neighbours are on the same rank."""
        units = -(-count // together)
        low, high = (min(count, together * (rank * units // self.ranks)) for rank in (self.rank, self.rank + 1))
        return low, high


@dataclass(frozen=True)
class TrainingImages:
    """Augmented images for a training, in full batches, from any step on.

    Sample number n of a training (step n // global_batch) is the same picture whatever the number of workers, ranks
    or interruptions.
    """

    images: Beton
    order: Sampler
    global_batch: int
    side: int
    """Height and width of a sample, in pixels."""
    augmentation: Augmentation
    seed: int
    workers: int
    slice: RankShard = RankShard()
    together: int = 1
    """So many consecutive samples are on the same rank and in the same micro-batch."""
    fill: Color = GREY
    """Colour of places that RandAugment leaves empty."""

    def from_step(self, step: int, until: int) -> Iterator[Batch]:
        """This rank's part of the batches `step` to `until - 1`."""
        return _made(self.workers, lambda pool, room: (self._begun(s, pool, room) for s in range(step, until)))

    def _begun(self, step: int, pool: ThreadPoolExecutor, room: BufferPool) -> _Begun:
        low, high = self.slice.of(self.global_batch, self.together)
        first, count = step * self.global_batch + low, high - low
        indices = self.order.indices(first, count)
        plan = _augmented(
            self.images,
            indices,
            lambda stream, width: rng.uniforms(self.seed, stream, first, count, width),
            self.augmentation,
            self.fill,
        )
        return _begin(self.images, indices, plan, self.side, first, self.seed, self.together, pool, room, self.workers)


def plain_batches(
    images: Beton,
    indices: Int64[np.ndarray, " samples"],
    batch: int,
    side: int,
    center_crop: float,
    workers: int,
) -> Iterator[Batch]:
    """The images `indices`, in this order, each once, as evaluation sees them."""

    def begun(start: int, pool: ThreadPoolExecutor, room: BufferPool) -> _Begun:
        part = indices[start : start + batch]
        return _begin(images, part, _plain(images, part, center_crop), side, start, 0, 1, pool, room, workers)

    return _made(workers, lambda pool, room: (begun(start, pool, room) for start in range(0, len(indices), batch)))


def augmented_batches(
    images: Beton,
    indices: Int64[np.ndarray, " samples"],
    batch: int,
    side: int,
    augmentation: Augmentation,
    seed: int,
    view: int,
    workers: int,
    fill: Color = GREY,
) -> Iterator[Batch]:
    """The images `indices`, in this order, each once, augmented by numbers that follow from index and view."""

    def begun(start: int, pool: ThreadPoolExecutor, room: BufferPool) -> _Begun:
        part = indices[start : start + batch]
        plan = _of_view(images, part, augmentation, seed, view, fill)
        return _begin(images, part, plan, side, start, seed, 1, pool, room, workers)

    return _made(workers, lambda pool, room: (begun(start, pool, room) for start in range(0, len(indices), batch)))


@dataclass(frozen=True)
class ImageViews:
    """The views of a split's images: view 0 is that of `plain_batches`, view v that of `augmented_batches`."""

    images: Beton
    side: int
    center_crop: float
    augmentation: Augmentation | None
    """None where there is only the plain view."""
    seed: int
    workers: int
    fill: Color = GREY

    def batches(self, samples: Iterable[tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]]) -> Iterator[Batch]:
        """A batch for each pair of views and indices, one of each a sample, in any order and any mixture."""

        def begun(views: np.ndarray, indices: np.ndarray, pool: ThreadPoolExecutor, room: BufferPool) -> _Begun:
            plan = self._plan(views, indices)
            return _begin(self.images, indices, plan, self.side, 0, self.seed, 1, pool, room, self.workers)

        return _made(self.workers, lambda pool, room: (begun(v, i, pool, room) for v, i in samples))

    def _plan(self, views: np.ndarray, indices: np.ndarray) -> _Plan:
        crops = np.empty((len(indices), 4), dtype=np.int64)
        changes: dict[int, tuple[Callable[[int, Picture], None], int]] = {}
        for view in np.unique(views).tolist():
            places = np.flatnonzero(views == view)
            part = indices[places]
            if view == 0:
                plan = _plain(self.images, part, self.center_crop)
            else:
                assert self.augmentation is not None
                plan = _of_view(self.images, part, self.augmentation, self.seed, view, self.fill)
            crops[places] = plan.crops
            if plan.change:
                changes |= {place: (plan.change, i) for i, place in enumerate(places.tolist())}

        def change(i: int, picture: Picture) -> None:
            if i in changes:
                of_its_view, number = changes[i]
                of_its_view(number, picture)

        return _Plan(crops, change if changes else None)


def _plain(images: Beton, indices: Int64[np.ndarray, " samples"], center_crop: float) -> _Plan:
    return _Plan(crop.center_crops(images.heights[indices], images.widths[indices], center_crop))


def _of_view(
    images: Beton,
    indices: Int64[np.ndarray, " samples"],
    augmentation: Augmentation,
    seed: int,
    view: int,
    fill: Color,
) -> _Plan:
    """An augmented view, by numbers that follow from index and view."""

    def numbers(stream: str, width: int) -> np.ndarray:
        name = f"view {view}" if stream == "augmentation" else f"view {view} {stream}"
        return rng.uniforms_at(seed, name, indices, width)

    return _augmented(images, indices, numbers, augmentation, fill)


@dataclass(frozen=True)
class _Plan:
    """What becomes of the images of a batch."""

    crops: Int64[np.ndarray, "samples 4"]
    """Top, left, height and width of the part that is kept and resized."""
    change: Callable[[int, Picture], None] | None = None
    """Changes the i-th picture in place, after that."""


def _augmented(
    images: Beton,
    indices: Int64[np.ndarray, " samples"],
    numbers: Callable[[str, int], Float64[np.ndarray, "samples width"]],
    augmentation: Augmentation,
    fill: Color,
) -> _Plan:
    """Crop, flip, RandAugment and colour jitter; `numbers` gives the samples' numbers of a stream."""
    uniforms = numbers("augmentation", crop.UNIFORMS)
    sizes = images.heights[indices], images.widths[indices]
    crops = crop.random_resized_crops(*sizes, uniforms, augmentation.crop_scale, augmentation.crop_ratio)
    mirrored = crop.flips(uniforms) & augmentation.flip
    settings = augmentation.rand_augment
    chosen = None
    if settings:
        width = settings.layers * rand_augment.NUMBERS_PER_LAYER
        chosen = rand_augment.choices(numbers("rand augment", width), settings)
    jitter = numbers("color jitter", color.NUMBERS) if any(augmentation.color_jitter) else None

    def change(i: int, picture: Picture) -> None:
        if mirrored[i]:
            cv2.flip(picture, 1, picture)
        result = picture
        if chosen and settings:
            result = chosen.apply(i, result, settings, fill)
        if jitter is not None:
            result = color.jittered(result, jitter[i], augmentation.color_jitter)
        if result is not picture:
            np.copyto(picture, result)

    return _Plan(crops, change if chosen or jitter is not None or augmentation.flip else None)


@dataclass(frozen=True)
class _Begun:
    """A batch that threads are working on."""

    batch: Batch
    tasks: list[Future[None]]

    def finished(self) -> Batch:
        """Wait for it; what a thread raised is raised here."""
        for task in self.tasks:
            task.result()
        return self.batch


def _begin(
    images: Beton,
    indices: Int64[np.ndarray, " samples"],
    plan: _Plan,
    side: int,
    first: int,
    seed: int,
    together: int,
    pool: ThreadPoolExecutor,
    room: BufferPool,
    workers: int,
) -> _Begun:
    """Let the pool make the pictures of a batch."""
    count = len(indices)
    pixels = room.of((count, side, side, 3), torch.uint8)
    out = pixels.numpy()

    def make(start: int, stop: int) -> None:
        for i in range(start, stop):
            top, left, height, width = plan.crops[i].tolist()
            images.crop(int(indices[i]), top, left, height, width, out[i])
            if plan.change:
                plan.change(i, out[i])

    size = max(1, min(_TASK, -(-count // workers)))
    tasks = [pool.submit(make, start, min(start + size, count)) for start in range(0, count, size)]
    return _Begun(Batch(pixels, torch.from_numpy(images.labels[indices]), first, seed, together), tasks)


def _made(workers: int, begin: Callable[[ThreadPoolExecutor, BufferPool], Iterable[_Begun]]) -> Iterator[Batch]:
    """Batches in order, made ahead; the next is begun before one is waited for."""
    room = BufferPool()

    def finished(pool: ThreadPoolExecutor) -> Iterator[Batch]:
        waiting: _Begun | None = None
        for begun in begin(pool, room):
            if waiting:
                yield waiting.finished()
            waiting = begun
        if waiting:
            yield waiting.finished()

    with _threads(workers) as pool:
        yield from prefetch(lambda: finished(pool))


@contextmanager
def _threads(workers: int) -> Iterator[ThreadPoolExecutor]:
    """A pool that drops, at the end, what it has not begun."""
    pool = ThreadPoolExecutor(workers, "decode")
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
