"""Features of a frozen backbone on disk: written once per view, read by every head."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int64

from mem import files, rng
from mem.data.features.blocks import THREADS, BlockCache, BlockSampler, RowReader
from mem.data.loading.batch import Batch
from mem.data.loading.buffer_pool import BufferPool
from mem.data.loading.prefetch import prefetch
from mem.data.loading.samplers import Sampler
from mem.errors import UserError


def feature_file(folder: Path, split: str, kind: str) -> Path:
    """Where the `pooled` or `tokens` features or the `labels` of a split are."""
    return folder / f"{split}-{kind}.npy"


def create_feature_file(
    folder: Path, split: str, kind: str, shape: tuple[int, ...], dtype: str = "float32"
) -> np.ndarray:
    """A new array on disk, to be written in parts by any process that opens it.

    Shapes are (views, images, width) for `pooled` and (views, images, tokens, width) for `tokens`; view 0 is the
    plain one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return np.lib.format.open_memmap(feature_file(folder, split, kind), mode="w+", dtype=np.dtype(dtype), shape=shape)


@runtime_checkable
class FeatureSource(Protocol):
    """The features of one split, wherever they come from."""

    @property
    def labels(self) -> Int64[np.ndarray, " images"]:
        """Class of each image."""
        ...

    def __len__(self) -> int: ...

    @property
    def views(self) -> int:
        """The plain view and the augmented ones."""
        ...

    @property
    def has_tokens(self) -> bool:
        """Whether there are tokens beside the pooled feature."""
        ...

    def shape(self, *, tokens: bool) -> tuple[int, ...]:
        """Shape of one sample of `inputs`."""
        ...

    def inputs(self, views: np.ndarray | int, indices: np.ndarray, *, tokens: bool) -> torch.Tensor:
        """What a head sees: (samples, width), or (samples, 1 + tokens, width) with the pooled feature first."""
        ...


@runtime_checkable
class StreamedFeatureSource(FeatureSource, Protocol):
    """A split that makes its features when they are asked for, and likes to know what comes next."""

    def stream(self, samples: Iterable[tuple[np.ndarray, np.ndarray]], *, tokens: bool) -> Iterator[torch.Tensor]:
        """`inputs` of each pair of views and indices, one after the other."""
        ...


@dataclass(frozen=True)
class FeatureSplit:
    """The features of one split, mapped from disk or in memory."""

    pooled: np.ndarray
    """(views, images, width), float32."""
    tokens: np.ndarray | None
    """(views, images, tokens, width), float32 or float16, where they were kept."""
    labels: Int64[np.ndarray, " images"]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def views(self) -> int:
        """The plain view and the augmented ones."""
        return len(self.pooled)

    @property
    def has_tokens(self) -> bool:
        """Whether tokens were kept."""
        return self.tokens is not None

    def shape(self, *, tokens: bool) -> tuple[int, ...]:
        """Shape of one sample of `inputs`."""
        if not tokens:
            return self.pooled.shape[2:]
        assert self.tokens is not None
        return (1 + self.tokens.shape[2], self.tokens.shape[3])

    def inputs(self, views: np.ndarray | int, indices: np.ndarray, *, tokens: bool) -> torch.Tensor:
        """What a head sees, in float32: (samples, width), or (samples, 1 + tokens, width), the pooled feature first."""
        pooled = self.pooled[views, indices]
        if not tokens:
            return torch.from_numpy(np.ascontiguousarray(pooled))
        assert self.tokens is not None
        return torch.from_numpy(np.concatenate([pooled[:, None], self.tokens[views, indices]], axis=1))


def open_split(folder: Path, split: str) -> FeatureSplit:
    """Open the features of a split.

    Raises:
        UserError: A file is missing, has the wrong shape, or holds numbers that are not finite; or nothing is stored.
    """
    try:
        labels = read_labels(folder, split)
        pooled = np.load(feature_file(folder, split, "pooled"), mmap_mode="r")
        path = feature_file(folder, split, "tokens")
        tokens = np.load(path, mmap_mode="r") if path.exists() else None
    except FileNotFoundError as error:
        if is_online(folder):
            raise UserError(
                f"{folder}: holds labels and no features, since its study has `features.online: true`. Set it to false "
                "and run the study again to have them on disk"
            ) from None
        raise UserError(f"{error.filename}: no such file. `mem features` writes it.") from None
    except ValueError as error:
        raise UserError(f"{folder}: the features of {split} cannot be read: {error}") from None
    if pooled.ndim != 3 or pooled.shape[1] != len(labels):
        raise UserError(
            f"{folder}: {split} has {len(labels)} labels and features of shape {pooled.shape}; "
            "expected (views, images, width)"
        )
    if not _finite(pooled):
        raise UserError(f"{folder}: the features of {split} hold numbers that are not finite")
    return FeatureSplit(pooled, tokens, labels)


def read_labels(folder: Path, split: str) -> Int64[np.ndarray, " images"]:
    """Class of each image of a split.

    Raises:
        FileNotFoundError: There are none.
        ValueError: They are damaged.
    """
    return np.load(feature_file(folder, split, "labels"))


_CHECKED_AT_ONCE = 1 << 20
"""Numbers that are looked through at a time."""


def _finite(array: np.memmap) -> bool:
    """Whether all numbers are finite. Read through the file: pages of a mapping count as memory of the process."""
    with open(str(array.filename), "rb", buffering=0) as file:
        file.seek(array.offset)
        while len(part := np.fromfile(file, array.dtype, _CHECKED_AT_ONCE)):
            if not np.isfinite(part).all():
                return False
    return True


def write_about(folder: Path, about: dict[str, object]) -> None:
    """What is known of the features beside the arrays: classes, class counts, width."""
    files.write_text(folder / "features.json", json.dumps(about, indent=2) + "\n")


def read_about(folder: Path) -> dict[str, object]:
    """What `write_about` wrote.

    Raises:
        UserError: There is no such file.
    """
    try:
        return json.loads((folder / "features.json").read_text())
    except FileNotFoundError:
        raise UserError(f"{folder}/features.json: no such file. `mem features` writes it.") from None


def is_online(folder: Path) -> bool:
    """Whether the features of a run are made when they are asked for, and none are stored."""
    return (folder / "features.json").exists() and bool(read_about(folder).get("online"))


@dataclass(frozen=True)
class TrainingFeatures:
    """Features for the training of a head; a sample sees one of its views, drawn at random where there are several.

    Reading is ahead of use, and in pieces that a disk is quick with; see `mem.data.features.blocks`.
    """

    split: FeatureSource
    order: Sampler
    global_batch: int
    seed: int
    tokens: bool
    augmented_views: int | None = None
    """How many of the augmented views are used; all by default."""

    @property
    def views(self) -> int:
        """Views that are drawn from: the plain one and augmented ones."""
        return self.split.views if self.augmented_views is None else 1 + self.augmented_views

    @property
    def _stored(self) -> FeatureSplit:
        assert isinstance(self.split, FeatureSplit)
        return self.split

    def from_step(self, step: int, until: int) -> Iterator[Batch]:
        """The batches `step` to `until - 1`."""
        if isinstance(self.split, StreamedFeatureSource):
            return self._from_stream(self.split, step, until)
        tokens = self._stored.tokens if self.tokens else None
        if isinstance(self.order, BlockSampler) and isinstance(self._stored.pooled, np.memmap):
            return prefetch(lambda: self._from_blocks(step, until))
        if isinstance(tokens, np.memmap):
            return prefetch(lambda: self._from_rows(step, until))
        return self._from_memory(step, until)

    def _from_stream(self, split: StreamedFeatureSource, step: int, until: int) -> Iterator[Batch]:
        """From the images."""
        samples = (self._samples(s) for s in range(step, until))
        with closing(split.stream(samples, tokens=self.tokens)) as made:  # type: ignore[type-var]
            for s, inputs in zip(range(step, until), made, strict=True):
                yield self._batch(s, self._samples(s)[1], inputs)

    def _from_memory(self, step: int, until: int) -> Iterator[Batch]:
        """By indexing: pooled features are in memory after `open_split`, where they fit, and so is all of an array."""
        for s in range(step, until):
            views, indices = self._samples(s)
            yield self._batch(s, indices, self.split.inputs(views, indices, tokens=self.tokens))

    def _batch(self, step: int, indices: np.ndarray, inputs: torch.Tensor) -> Batch:
        labels = torch.from_numpy(self.split.labels[indices])
        return Batch(inputs, labels, step * self.global_batch, self.seed)

    def _samples(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Views and indices of a step's samples."""
        first, count = step * self.global_batch, self.global_batch
        indices = self.order.indices(first, count)
        if isinstance(self.order, BlockSampler):
            return self.order.views(first, count, self.views, self.seed), indices
        if self.views == 1:
            return np.zeros(count, dtype=np.int64), indices
        numbers = rng.uniforms(self.seed, "view", first, count, 1)[:, 0]
        return np.floor(numbers * self.views).astype(np.int64), indices

    def _from_rows(self, step: int, until: int) -> Iterator[Batch]:
        """Tokens of each sample by a thread; two batches in work at any time."""
        assert isinstance(self._stored.tokens, np.memmap)
        with closing(RowReader(self._stored.tokens)) as rows, ThreadPoolExecutor(THREADS, "features") as pool:
            room = BufferPool()
            waiting: deque[tuple[Batch, list[Future[None]]]] = deque()
            for s in range(step, until):
                views, indices = self._samples(s)
                inputs = room.of((len(indices), *self.split.shape(tokens=True)), torch.float32)
                out = inputs.numpy()
                out[:, 0] = self._stored.pooled[views, indices]
                tasks = [
                    pool.submit(rows.read, view, index, out[i, 1:])
                    for i, (view, index) in enumerate(zip(views.tolist(), indices.tolist(), strict=True))
                ]
                waiting.append((self._batch(s, indices, inputs), tasks))
                if len(waiting) > 1:
                    yield _read(*waiting.popleft())
            while waiting:
                yield _read(*waiting.popleft())

    def _from_blocks(self, step: int, until: int) -> Iterator[Batch]:
        """Whole blocks, up to a window ahead."""
        assert isinstance(self.order, BlockSampler)
        block, window = self.order.block, self.order.window
        sources = [self._stored.pooled, *([self._stored.tokens] if self.tokens else [])]
        # The blocks of a batch, of the window and the batch that are read ahead, and of the windows at their ends.
        slots = 2 * (-(-self.global_batch // block) + 2 * window + 1)
        with ExitStack() as stack:
            arrays = [stack.enter_context(closing(RowReader(s))) for s in sources if isinstance(s, np.memmap)]
            pool = stack.enter_context(ThreadPoolExecutor(THREADS, "features"))
            cache = BlockCache(arrays, block, slots, pool)
            room = BufferPool()
            requested = step * self.global_batch
            end = until * self.global_batch
            for s in range(step, until):
                goal = min(end, (s + 1) * self.global_batch + block * window)
                while requested < goal:
                    step_of = requested // self.global_batch
                    cache.request(*self._samples(step_of))
                    requested = (step_of + 1) * self.global_batch
                inputs = room.of((self.global_batch, *self.split.shape(tokens=self.tokens)), torch.float32)
                out = inputs.numpy()
                views, indices = self._samples(s)
                cache.fill(views, indices, [out[:, 0], out[:, 1:]] if self.tokens else [out])
                yield self._batch(s, indices, inputs)


def _read(batch: Batch, tasks: list[Future[None]]) -> Batch:
    for task in tasks:
        task.result()
    return batch
