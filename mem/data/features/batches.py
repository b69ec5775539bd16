"""Feature batches for head training."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass

import numpy as np
import torch

from mem import rng
from mem.data.batch import Batch
from mem.data.features.blocks import THREADS, BlockCache, BlockSampler, RowReader
from mem.data.features.stored import FeatureSource, FeatureSplit, StreamedFeatureSource
from mem.data.loading.buffer_pool import BufferPool
from mem.data.loading.prefetch import prefetch
from mem.data.loading.samplers import Sampler


@dataclass(frozen=True)
class TrainingFeatures:
    """Feature batches for head training. Each sample uses a random view of its image.

    Features on disk are prefetched with a read pattern that suits the disk; see `mem.data.features.blocks`.
    """

    split: FeatureSource
    sampler: Sampler
    global_batch: int
    seed: int
    tokens: bool
    augmented_views: int | None = None
    """Number of augmented views to use. None means all."""

    @property
    def views(self) -> int:
        """Number of views to sample from, including the plain view."""
        return self.split.views if self.augmented_views is None else 1 + self.augmented_views

    @property
    def _stored(self) -> FeatureSplit:
        assert isinstance(self.split, FeatureSplit)
        return self.split

    def from_step(self, step: int, until: int) -> Iterator[Batch]:
        """Yield the batches `step` to `until - 1`."""
        if isinstance(self.split, StreamedFeatureSource):
            return self._from_stream(self.split, step, until)
        tokens = self._stored.tokens if self.tokens else None
        if isinstance(self.sampler, BlockSampler) and isinstance(self._stored.pooled, np.memmap):
            return prefetch(lambda: self._from_blocks(step, until))
        if isinstance(tokens, np.memmap):
            return prefetch(lambda: self._from_rows(step, until))
        return self._from_memory(step, until)

    def _from_stream(self, split: StreamedFeatureSource, step: int, until: int) -> Iterator[Batch]:
        """Yield batches of features that are computed from the images."""
        samples = (self._samples(s) for s in range(step, until))
        with closing(split.stream(samples, tokens=self.tokens)) as stream:  # type: ignore[type-var]
            for s, inputs in zip(range(step, until), stream, strict=True):
                yield self._batch(s, self._samples(s)[1], inputs)

    def _from_memory(self, step: int, until: int) -> Iterator[Batch]:
        """Yield batches by array indexing. `open_split` has already read pooled features into the page cache."""
        for s in range(step, until):
            views, indices = self._samples(s)
            yield self._batch(s, indices, self.split.inputs(views, indices, tokens=self.tokens))

    def _batch(self, step: int, indices: np.ndarray, inputs: torch.Tensor) -> Batch:
        labels = torch.from_numpy(self.split.labels[indices])
        return Batch(inputs, labels, step * self.global_batch, self.seed)

    def _samples(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the view and the image index of each sample in a step."""
        first, count = step * self.global_batch, self.global_batch
        indices = self.sampler.indices(first, count)
        if isinstance(self.sampler, BlockSampler):
            return self.sampler.views(first, count, self.views, self.seed), indices
        if self.views == 1:
            return np.zeros(count, dtype=np.int64), indices
        numbers = rng.uniforms(self.seed, "view", first, count, 1)[:, 0]
        return np.floor(numbers * self.views).astype(np.int64), indices

    def _from_rows(self, step: int, until: int) -> Iterator[Batch]:
        """Yield batches whose tokens are read row by row in a thread pool. Two batches are in progress at any time."""
        assert isinstance(self._stored.tokens, np.memmap)
        with closing(RowReader(self._stored.tokens)) as rows, ThreadPoolExecutor(THREADS, "features") as pool:
            buffers = BufferPool()
            in_progress: deque[tuple[Batch, list[Future[None]]]] = deque()
            for s in range(step, until):
                views, indices = self._samples(s)
                inputs = buffers.tensor((len(indices), *self.split.shape(tokens=True)), torch.float32)
                out = inputs.numpy()
                out[:, 0] = self._stored.pooled[views, indices]
                tasks = [
                    pool.submit(rows.read, view, index, out[i, 1:])
                    for i, (view, index) in enumerate(zip(views.tolist(), indices.tolist(), strict=True))
                ]
                in_progress.append((self._batch(s, indices, inputs), tasks))
                if len(in_progress) > 1:
                    yield _wait(*in_progress.popleft())
            while in_progress:
                yield _wait(*in_progress.popleft())

    def _from_blocks(self, step: int, until: int) -> Iterator[Batch]:
        """Yield batches from complete blocks of rows, which are read one window in advance."""
        assert isinstance(self.sampler, BlockSampler)
        block, window = self.sampler.block, self.sampler.window
        sources = [self._stored.pooled, *([self._stored.tokens] if self.tokens else [])]
        # Enough for the blocks of the current batch, the prefetched window and batch, and the first and last windows.
        slots = 2 * (-(-self.global_batch // block) + 2 * window + 1)
        with ExitStack() as stack:
            arrays = [stack.enter_context(closing(RowReader(s))) for s in sources if isinstance(s, np.memmap)]
            pool = stack.enter_context(ThreadPoolExecutor(THREADS, "features"))
            cache = BlockCache(arrays, block, slots, pool)
            buffers = BufferPool()
            requested = step * self.global_batch
            end = until * self.global_batch
            for s in range(step, until):
                request_until = min(end, (s + 1) * self.global_batch + block * window)
                while requested < request_until:
                    next_step = requested // self.global_batch
                    cache.request(*self._samples(next_step))
                    requested = (next_step + 1) * self.global_batch
                inputs = buffers.tensor((self.global_batch, *self.split.shape(tokens=self.tokens)), torch.float32)
                out = inputs.numpy()
                views, indices = self._samples(s)
                cache.fill(views, indices, [out[:, 0], out[:, 1:]] if self.tokens else [out])
                yield self._batch(s, indices, inputs)


def _wait(batch: Batch, tasks: list[Future[None]]) -> Batch:
    """Return the batch once all its rows have been read. Re-raises the exception if a thread failed."""
    for task in tasks:
        task.result()
    return batch
