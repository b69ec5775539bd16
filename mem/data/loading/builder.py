"""Batch construction in a thread pool."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int64

from mem.data.batch import Batch
from mem.data.beton.reader import Beton
from mem.data.beton.resize_and_crop import ResizeAndCrop
from mem.data.loading.buffer_pool import BufferPool
from mem.data.loading.prefetch import prefetch
from mem.data.loading.transforms import BatchTransform

_TASK_IMAGES = 16
"""Number of images that a thread processes per task."""


@dataclass(frozen=True)
class BatchRequest:
    """A batch to build."""

    indices: Int64[np.ndarray, " samples"]
    """Indices of the images in the .beton file."""
    transform: BatchTransform
    first: int = 0
    """Index of the first sample, counted from the start of training."""
    seed: int = 0
    group_size: int = 1
    """Number of consecutive samples that stay on the same rank and in the same micro-batch."""
    second: BatchTransform | None = None
    """Transform of the second view of each image, or None if each image has one view."""


@dataclass(frozen=True)
class BatchBuilder:
    """Builds batches: decodes, crops, resizes and augments their images.

    Each image is processed by a single thread. Two batches are in progress at any time, so that no thread
    is idle while the last images of a batch are processed. Finished batches are prefetched.
    """

    images: Beton
    side: int
    """Height and width of a sample, in pixels."""
    workers: int
    """Number of threads."""

    def build(self, requests: Iterable[BatchRequest]) -> Iterator[Batch]:
        """Yield the requested batches in order. The prefetching thread iterates over the requests."""
        buffers = BufferPool()

        def finished(threads: ThreadPoolExecutor) -> Iterator[Batch]:
            previous: _BatchInProgress | None = None
            for request in requests:
                current = self._start(request, threads, buffers)
                if previous:
                    yield previous.wait()
                previous = current
            if previous:
                yield previous.wait()

        with _thread_pool(self.workers) as threads:
            yield from prefetch(lambda: finished(threads))

    def _start(self, request: BatchRequest, threads: ThreadPoolExecutor, buffers: BufferPool) -> _BatchInProgress:
        pixels, tasks = self._start_view(request.indices, request.transform, threads, buffers)
        second = None
        if request.second is not None:
            second, more_tasks = self._start_view(request.indices, request.second, threads, buffers)
            tasks += more_tasks
        labels = torch.from_numpy(self.images.labels[request.indices])
        batch = Batch(pixels, labels, request.first, request.seed, request.group_size, second)
        return _BatchInProgress(batch, tasks)

    def _start_view(
        self, indices: np.ndarray, transform: BatchTransform, threads: ThreadPoolExecutor, buffers: BufferPool
    ) -> tuple[torch.Tensor, list[Future[None]]]:
        """Start to build a view of images. Return the pixels, and the tasks after which they are complete."""
        count = len(indices)
        pixels = buffers.tensor((count, self.side, self.side, 3), torch.uint8)
        out = pixels.numpy()
        if isinstance(transform.crops, ResizeAndCrop):
            crops = self.images.resized_crops(indices, transform.crops)
        else:
            crops = self.images.crops(indices, transform.crops, transform.mirrored)

        def build_images(start: int, stop: int) -> None:
            crops.decode(start, out[start:stop])
            if transform.change:
                for i in range(start, stop):
                    transform.change(i, out[i])

        size = max(1, min(_TASK_IMAGES, -(-count // self.workers)))
        tasks = [threads.submit(build_images, start, min(start + size, count)) for start in range(0, count, size)]
        return pixels, tasks


@dataclass(frozen=True)
class _BatchInProgress:
    batch: Batch
    tasks: list[Future[None]]

    def wait(self) -> Batch:
        """Wait until the batch is complete. Re-raises the exception if a thread failed."""
        for task in self.tasks:
            task.result()
        return self.batch


@contextmanager
def _thread_pool(workers: int) -> Iterator[ThreadPoolExecutor]:
    """Create a thread pool that cancels its pending tasks on exit."""
    threads = ThreadPoolExecutor(workers, "decode")
    try:
        yield threads
    finally:
        threads.shutdown(cancel_futures=True)
