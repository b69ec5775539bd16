"""Feature files of a frozen backbone, which are written once and shared by all heads."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int64

from mem import files
from mem.errors import UserError


def feature_file(folder: Path, split: str, kind: str) -> Path:
    """Return the path of a split's `pooled` features, `tokens` or `labels`."""
    return folder / f"{split}-{kind}.npy"


def create_feature_file(
    folder: Path, split: str, kind: str, shape: tuple[int, ...], dtype: str = "float32"
) -> np.ndarray:
    """Create a feature file and return it as a memory map. Any process can open the file and write parts of it.

    The shape is (views, images, width) for `pooled` and (views, images, tokens, width) for `tokens`. With experts, the
    shape of `pooled` is (views, images, experts, width). View 0 is the plain view.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return np.lib.format.open_memmap(feature_file(folder, split, kind), mode="w+", dtype=np.dtype(dtype), shape=shape)


@contextmanager
def writable_feature_file(
    folder: Path, split: str, kind: str, shape: tuple[int, ...], dtype: np.dtype
) -> Iterator[IO[bytes]]:
    """Open a feature file that is written from start to end, after its header.

    The file is complete or does not exist. It is not written through a memory map, because a full disk would kill the
    process.
    """
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
    with files.atomic(feature_file(folder, split, kind), "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        yield file


@runtime_checkable
class FeatureSource(Protocol):
    """Features of one split: stored on disk, in memory, or computed on request."""

    @property
    def labels(self) -> Int64[np.ndarray, " images"]:
        """Class of each image."""
        ...

    def __len__(self) -> int: ...

    @property
    def views(self) -> int:
        """Number of views, including the plain view."""
        ...

    @property
    def has_tokens(self) -> bool:
        """Whether tokens are available in addition to the pooled features."""
        ...

    def shape(self, *, tokens: bool) -> tuple[int, ...]:
        """Shape of one sample returned by `inputs`."""
        ...

    def inputs(self, views: np.ndarray | int, indices: np.ndarray, *, tokens: bool) -> torch.Tensor:
        """Return head inputs: (samples, width), or (samples, 1 + tokens, width) with the pooled feature first.

        The pooled feature of a backbone with experts consists of those of all experts, one after another.
        """
        ...


@runtime_checkable
class StreamedFeatureSource(FeatureSource, Protocol):
    """A split that computes features on request and can prepare the next batch in the background."""

    def stream(self, samples: Iterable[tuple[np.ndarray, np.ndarray]], *, tokens: bool) -> Iterator[torch.Tensor]:
        """Yield the result of `inputs` for each pair of views and indices."""
        ...


@dataclass(frozen=True)
class FeatureSplit:
    """Features of one split, memory-mapped from disk or loaded into memory."""

    pooled: np.ndarray
    """(views, images, width), float32 or float16. With experts, `width` is that of all experts together."""
    tokens: np.ndarray | None
    """(views, images, tokens, width), float32 or float16. None if tokens were not stored."""
    labels: Int64[np.ndarray, " images"]
    experts: int = 1
    """Number of experts, whose features are stored one after another."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def views(self) -> int:
        """Number of views, including the plain view."""
        return len(self.pooled)

    @property
    def has_tokens(self) -> bool:
        """Whether tokens were stored."""
        return self.tokens is not None

    def shape(self, *, tokens: bool) -> tuple[int, ...]:
        """Shape of one sample returned by `inputs`."""
        if not tokens:
            return self.pooled.shape[2:]
        assert self.tokens is not None
        return (1 + self.tokens.shape[2], self.tokens.shape[3])

    def inputs(self, views: np.ndarray | int, indices: np.ndarray, *, tokens: bool) -> torch.Tensor:
        """Return head inputs as float32; see `FeatureSource.inputs`."""
        pooled = self.pooled[views, indices]
        if not tokens:
            return torch.from_numpy(np.ascontiguousarray(pooled, dtype=np.float32))
        assert self.tokens is not None
        parts = [pooled[:, None], self.tokens[views, indices]]
        return torch.from_numpy(np.concatenate(parts, axis=1, dtype=np.float32))


def open_split(folder: Path, split: str) -> FeatureSplit:
    """Open the stored features of a split.

    Raises:
        UserError: A file is missing, has the wrong shape or contains non-finite values, or no features are stored.
    """
    try:
        labels = read_labels(folder, split)
        pooled = np.load(feature_file(folder, split, "pooled"), mmap_mode="r")
        path = feature_file(folder, split, "tokens")
        tokens = np.load(path, mmap_mode="r") if path.exists() else None
    except FileNotFoundError as error:
        if is_online(folder):
            raise UserError(
                f"{folder}: contains labels but no features, because the study sets `features.online: true`. Set it to "
                "false and run the study again to store features."
            ) from None
        raise UserError(f"{error.filename}: no such file. Run `mem features` to write it.") from None
    except ValueError as error:
        raise UserError(
            f"{folder}: the features of {split} cannot be read: {error}. Delete the folder and run `mem features` "
            "again."
        ) from None
    if pooled.ndim not in (3, 4) or pooled.shape[1] != len(labels):
        raise UserError(
            f"{folder}: {split} has {len(labels)} labels and features of shape {pooled.shape}; expected (views, "
            "images, width) or, with experts, (views, images, experts, width). Delete the folder and run `mem "
            "features` again."
        )
    if not _finite(pooled):
        raise UserError(f"{folder}: the features of {split} contain non-finite values. Recompute the features.")
    if pooled.ndim == 3:
        return FeatureSplit(pooled, tokens, labels)
    return FeatureSplit(_concatenated(pooled), tokens, labels, experts=pooled.shape[2])


def _concatenated(pooled: np.memmap) -> np.memmap:
    """Map a file of shape (views, images, experts, width) as (views, images, experts * width)."""
    views, images, experts, width = pooled.shape
    # Not a reshaped view, whose memory cannot be released as that of the map itself.
    return np.memmap(str(pooled.filename), pooled.dtype, "r", pooled.offset, (views, images, experts * width))


def read_labels(folder: Path, split: str) -> Int64[np.ndarray, " images"]:
    """Return the class of each image of a split.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is damaged.
    """
    return np.load(feature_file(folder, split, "labels"))


_VALUES_PER_READ = 1 << 20


def _finite(array: np.memmap) -> bool:
    """Return whether all values are finite. Reads the file, because mapped pages would count as process memory."""
    with open(str(array.filename), "rb", buffering=0) as file:
        file.seek(array.offset)
        while len(part := np.fromfile(file, array.dtype, _VALUES_PER_READ)):
            if not np.isfinite(part).all():
                return False
    return True


def write_about(folder: Path, about: dict[str, object]) -> None:
    """Write features.json, which contains class counts, width and other metadata."""
    files.write_text(folder / "features.json", json.dumps(about, indent=2) + "\n")


def read_about(folder: Path) -> dict[str, object]:
    """Read features.json.

    Raises:
        UserError: The file does not exist.
    """
    try:
        return json.loads((folder / "features.json").read_text())
    except FileNotFoundError:
        raise UserError(f"{folder}/features.json: no such file. Run `mem features` to write it.") from None


def is_online(folder: Path) -> bool:
    """Return whether a run stores no features because heads compute them on request."""
    return (folder / "features.json").exists() and bool(read_about(folder).get("online"))
