"""Batches of images from .beton files, decoded by threads ahead of the training."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Int64

from mem import draws
from mem.config import Augmentation
from mem.data import augment
from mem.data.batch import Batch
from mem.data.beton import Beton
from mem.data.order import Order

_AHEAD = 3
"""Batches that are ready before they are asked for."""

Item = TypeVar("Item")


@dataclass(frozen=True)
class Slice:
    """The part of every global batch that one rank sees."""

    rank: int = 0
    ranks: int = 1

    def of(self, count: int) -> tuple[int, int]:
        """First and one past the last of `count` samples."""
        return self.rank * count // self.ranks, (self.rank + 1) * count // self.ranks


@dataclass(frozen=True)
class TrainingImages:
    """Augmented images for a training, in full batches, from any step on.

    Sample number n of a training (step n // global_batch) is the same picture whatever the number of workers, ranks
    or interruptions.
    """

    images: Beton
    order: Order
    global_batch: int
    side: int
    """Height and width of a sample, in pixels."""
    augmentation: Augmentation
    seed: int
    workers: int
    slice: Slice = Slice()

    def from_step(self, step: int, until: int) -> Iterator[Batch]:
        """This rank's part of the batches `step` to `until - 1`."""
        with ThreadPoolExecutor(self.workers, "decode") as pool:
            yield from ahead(lambda: (self._batch(s, pool) for s in range(step, until)))

    def _batch(self, step: int, pool: ThreadPoolExecutor) -> Batch:
        low, high = self.slice.of(self.global_batch)
        first, count = step * self.global_batch + low, high - low
        indices = self.order.indices(first, count)
        numbers = draws.uniforms(self.seed, "augmentation", first, count, augment.UNIFORMS)
        inputs = augmented(self.images, indices, numbers, self.side, self.augmentation, pool, self.workers)
        return Batch(inputs, torch.from_numpy(self.images.labels[indices]), first, self.seed)


def augmented(
    images: Beton,
    indices: Int64[np.ndarray, " samples"],
    numbers: np.ndarray,
    side: int,
    augmentation: Augmentation,
    pool: ThreadPoolExecutor,
    workers: int,
) -> torch.Tensor:
    """Crops and flips of the images `indices`, drawn from their uniform `numbers`: (samples, side, side, 3), uint8."""
    crops = augment.random_resized_crops(
        images.heights[indices],
        images.widths[indices],
        numbers,
        augmentation.crop_scale,
        augmentation.crop_ratio,
    )
    pixels = _decode(images, indices, crops, side, pool, workers)
    if augmentation.flip:
        mirrored = torch.from_numpy(augment.flips(numbers))
        pixels[mirrored] = pixels[mirrored].flip(2)
    return pixels


def plain_batches(
    images: Beton,
    indices: Int64[np.ndarray, " samples"],
    batch: int,
    side: int,
    center_crop: float,
    workers: int,
) -> Iterator[Batch]:
    """The images `indices`, in this order, each once, as evaluation sees them."""

    def make(pool: ThreadPoolExecutor) -> Iterator[Batch]:
        for start in range(0, len(indices), batch):
            part = indices[start : start + batch]
            crops = augment.center_crops(images.heights[part], images.widths[part], center_crop)
            pixels = _decode(images, part, crops, side, pool, workers)
            yield Batch(pixels, torch.from_numpy(images.labels[part]), start, 0)

    with ThreadPoolExecutor(workers, "decode") as pool:
        yield from ahead(lambda: make(pool))


def augmented_batches(
    images: Beton,
    indices: Int64[np.ndarray, " samples"],
    batch: int,
    side: int,
    augmentation: Augmentation,
    seed: int,
    view: int,
    workers: int,
) -> Iterator[Batch]:
    """The images `indices`, in this order, each once, augmented by numbers that follow from index and view."""

    def make(pool: ThreadPoolExecutor) -> Iterator[Batch]:
        numbers = draws.uniforms(seed, f"view {view}", 0, len(images), augment.UNIFORMS)
        for start in range(0, len(indices), batch):
            part = indices[start : start + batch]
            pixels = augmented(images, part, numbers[part], side, augmentation, pool, workers)
            yield Batch(pixels, torch.from_numpy(images.labels[part]), start, seed)

    with ThreadPoolExecutor(workers, "decode") as pool:
        yield from ahead(lambda: make(pool))


def _decode(
    images: Beton,
    indices: Int64[np.ndarray, " samples"],
    crops: Int64[np.ndarray, "samples 4"],
    side: int,
    pool: ThreadPoolExecutor,
    workers: int,
) -> torch.Tensor:
    pixels = torch.empty((len(indices), side, side, 3), dtype=torch.uint8, pin_memory=torch.cuda.is_available())
    out = pixels.numpy()

    def decode(start: int, stop: int) -> None:
        for i in range(start, stop):
            top, left, height, width = crops[i].tolist()
            images.crop(int(indices[i]), top, left, height, width, out[i])

    bounds = [len(indices) * w // workers for w in range(workers + 1)]
    for future in [pool.submit(decode, low, high) for low, high in pairwise(bounds)]:
        future.result()
    return pixels


def ahead(make: Callable[[], Iterator[Item]], depth: int = _AHEAD) -> Iterator[Item]:
    """The items of an iterator, made by a thread up to `depth` ahead.

    What the iterator raises is raised here; leaving early stops the thread.
    """
    items: queue.Queue[tuple[Item | None, BaseException | None]] = queue.Queue(depth)
    stopped = threading.Event()

    def put(entry: tuple[Item | None, BaseException | None]) -> bool:
        while not stopped.is_set():
            try:
                items.put(entry, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def produce() -> None:
        try:
            for item in make():
                if not put((item, None)):
                    return
            put((None, StopIteration()))
        except BaseException as error:  # handed to the consumer, whatever it is
            put((None, error))

    thread = threading.Thread(target=produce, name="loader", daemon=True)
    thread.start()
    try:
        while True:
            item, error = items.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item  # type: ignore[misc]
    finally:
        stopped.set()
        thread.join()
