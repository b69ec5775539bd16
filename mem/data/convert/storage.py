"""Choice of the storage format. `storage: fit` measures a fixed sample of images, so the choice is deterministic."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64

from mem.config import ImageData
from mem.data.beton.encoding import Encoding, ImageSource
from mem.data.convert.worker_pool import Pool, Task
from mem.data.convert.worker_process import ResultKind, TaskKind
from mem.errors import UserError

QUALITIES = (95, 90, 85, 80, 75, 70, 60, 50)
"""JPEG qualities that `storage: fit` chooses from. Below 50, block artefacts become visible."""
SAMPLE = 512
"""Number of images to measure, evenly spaced across all splits."""
_STANDARD_ERRORS = 2.0
"""Safety margin on the estimated size, in standard errors."""


@dataclass(frozen=True)
class StorageFormat:
    """Storage format of the images, and the size estimate that the choice is based on."""

    encoding: Encoding
    estimated_bytes: int | None = None
    """Estimated size of all splits; None if no images were measured."""

    def document(self) -> dict[str, Any]:
        """Return the entries for dataset.json."""
        entries: dict[str, Any] = {"storage": self.encoding.storage}
        if self.encoding.storage == "jpeg":
            entries["jpeg_quality"] = self.encoding.quality
        entries |= {"short_side": self.encoding.short_side, "resample": self.encoding.resample}
        if self.estimated_bytes is not None:
            entries["estimated_gb"] = round(self.estimated_bytes / 1e9, 3)
        return entries


def choose_storage(settings: ImageData, images: int, source: Callable[[int], ImageSource], pool: Pool) -> StorageFormat:
    """Return the configured storage format or, for `storage: fit`, the best one within the size budget.

    Args:
        settings: Dataset settings.
        images: Number of images in all splits.
        source: Function that returns the image with a given index.
        pool: Pool that measures the images.

    Raises:
        UserError: No format fits into the budget.
        WorkerLost: A worker exited.
    """

    def encoding(storage: str, quality: int) -> Encoding:
        return Encoding(storage, quality, settings.short_side, settings.resample)

    if settings.storage != "fit":
        return StorageFormat(encoding(settings.storage, settings.jpeg_quality))
    assert settings.size_budget_gb is not None
    pool.configure(encoding("raw", 100), QUALITIES)
    estimates = _estimate_sizes(images, source, pool)
    for name, size in zip(("raw", *QUALITIES), estimates.tolist(), strict=True):
        if size <= settings.size_budget_gb * 1e9:
            chosen = encoding("raw", 100) if name == "raw" else encoding("jpeg", int(name))
            return StorageFormat(chosen, round(size))
    raise UserError(
        f"dataset.size_budget_gb: {settings.size_budget_gb:g} GB is not enough for {images:,} images. They need "
        f"{_gb(estimates[0])} raw, {_gb(estimates[1])} as JPEG with quality {QUALITIES[0]}, and {_gb(estimates[-1])} "
        f"at the lowest quality, {QUALITIES[-1]}. Increase the budget or shrink the images (short_side)."
    )


def _estimate_sizes(images: int, source: Callable[[int], ImageSource], pool: Pool) -> Float64[np.ndarray, " formats"]:
    """Estimate the size of all images in bytes, raw and at each quality, with a margin for the sampling error."""
    numbers = np.unique(np.linspace(0, images - 1, min(images, SAMPLE)).round().astype(np.int64)).tolist()
    tasks = (Task(TaskKind.MEASURE, number, source(number)) for number in numbers)
    measured: list[list[int]] = [
        json.loads(result.text) for result in pool.results(tasks) if result.kind == ResultKind.MEASURED
    ]
    if not measured:
        return np.zeros(1 + len(QUALITIES))  # no image is readable; the conversion reports this
    sizes = np.asarray(measured, dtype=np.float64)
    if len(numbers) == images:
        return sizes.sum(axis=0) * images / len(sizes)
    standard_error = sizes.std(axis=0) / np.sqrt(len(sizes))
    return (sizes.mean(axis=0) + _STANDARD_ERRORS * standard_error) * images


def _gb(size: float) -> str:
    return f"{size / 1e9:.3g} GB"
