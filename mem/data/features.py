"""Features of a frozen backbone on disk: written once per view, read by every head."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64

from mem import draws, files
from mem.data.batch import Batch
from mem.data.order import Order
from mem.errors import UserError


def feature_file(folder: Path, split: str, kind: str) -> Path:
    """Where the `pooled` or `tokens` features or the `labels` of a split are."""
    return folder / f"{split}-{kind}.npy"


def create(folder: Path, split: str, kind: str, shape: tuple[int, ...]) -> np.ndarray:
    """A new array of float32 on disk, to be written in parts by any process that opens it.

    Shapes are (views, images, width) for `pooled` and (views, images, tokens, width) for `tokens`; view 0 is the
    plain one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return np.lib.format.open_memmap(feature_file(folder, split, kind), mode="w+", dtype=np.float32, shape=shape)


@dataclass(frozen=True)
class FeatureSplit:
    """The features of one split, mapped from disk."""

    pooled: np.ndarray
    """(views, images, width), float32."""
    tokens: np.ndarray | None
    """(views, images, tokens, width), float32, where they were kept."""
    labels: Int64[np.ndarray, " images"]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def views(self) -> int:
        """The plain view and the augmented ones."""
        return len(self.pooled)

    def inputs(self, views: np.ndarray | int, indices: np.ndarray, *, tokens: bool) -> torch.Tensor:
        """What a head sees: (samples, width), or (samples, 1 + tokens, width) with the pooled feature first."""
        pooled = self.pooled[views, indices]
        if not tokens:
            return torch.from_numpy(np.ascontiguousarray(pooled))
        assert self.tokens is not None
        return torch.from_numpy(np.concatenate([pooled[:, None], self.tokens[views, indices]], axis=1))


def open_split(folder: Path, split: str) -> FeatureSplit:
    """Open the features of a split.

    Raises:
        UserError: A file is missing, has the wrong shape, or holds numbers that are not finite.
    """
    try:
        pooled = np.load(feature_file(folder, split, "pooled"), mmap_mode="r")
        labels = np.load(feature_file(folder, split, "labels"))
        path = feature_file(folder, split, "tokens")
        tokens = np.load(path, mmap_mode="r") if path.exists() else None
    except FileNotFoundError as error:
        raise UserError(f"{error.filename}: no such file. `mem features` writes it.") from None
    except ValueError as error:
        raise UserError(f"{folder}: the features of {split} cannot be read: {error}") from None
    if pooled.ndim != 3 or pooled.shape[1] != len(labels):
        raise UserError(
            f"{folder}: {split} has {len(labels)} labels and features of shape {pooled.shape}; "
            "expected (views, images, width)"
        )
    if not all(
        np.isfinite(view[start : start + 4096]).all() for view in pooled for start in range(0, len(labels), 4096)
    ):
        raise UserError(f"{folder}: the features of {split} hold numbers that are not finite")
    return FeatureSplit(pooled, tokens, labels)


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


@dataclass(frozen=True)
class TrainingFeatures:
    """Features for the training of a head; a sample sees one of its views, drawn at random where there are several."""

    split: FeatureSplit
    order: Order
    global_batch: int
    seed: int
    tokens: bool

    def from_step(self, step: int, until: int) -> Iterator[Batch]:
        """The batches `step` to `until - 1`."""
        for s in range(step, until):
            first = s * self.global_batch
            indices = self.order.indices(first, self.global_batch)
            views: np.ndarray | int = 0
            if self.split.views > 1:
                numbers = draws.uniforms(self.seed, "view", first, self.global_batch, 1)[:, 0]
                views = np.floor(numbers * self.split.views).astype(np.int64)
            inputs = self.split.inputs(views, indices, tokens=self.tokens)
            yield Batch(inputs, torch.from_numpy(self.split.labels[indices]), first, self.seed)
