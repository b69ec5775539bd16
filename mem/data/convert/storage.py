"""How images are kept, where the setting is a size: measured on a sample, and the same whenever it is asked."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64

from mem.config import ImageData
from mem.data.beton.encoding import Encoding, ImageSource
from mem.data.convert.worker_pool import Pool, Task
from mem.data.convert.worker_process import MEASURE, MEASURED
from mem.errors import UserError

QUALITIES = (95, 90, 85, 80, 75, 70, 60, 50)
"""What JPEG may have where `storage` is `fit`. Below 50 blocks are seen."""
SAMPLE = 512
"""Images that are measured, evenly spread over all splits; all, where there are no more."""
_DEVIATIONS = 2.0
"""Of the estimate, that must fit too."""


@dataclass(frozen=True)
class Decision:
    """How images are kept, and why."""

    encoding: Encoding
    estimated_bytes: int | None = None
    """Of all splits together, where it was measured."""

    def document(self) -> dict[str, Any]:
        """For dataset.json."""
        kept: dict[str, Any] = {"storage": self.encoding.storage}
        if self.encoding.storage == "jpeg":
            kept["jpeg_quality"] = self.encoding.quality
        kept |= {"short_side": self.encoding.short_side, "resample": self.encoding.resample}
        if self.estimated_bytes is not None:
            kept["estimated_gb"] = round(self.estimated_bytes / 1e9, 3)
        return kept


def decide(settings: ImageData, images: int, source: Callable[[int], ImageSource], crew: Pool) -> Decision:
    """The settings' way of keeping images, or with `storage: fit` the best that the budget allows.

    Args:
        settings: Of the data set.
        images: How many there are in all splits.
        source: Gives the n-th of them.
        crew: Measures them.

    Raises:
        UserError: Nothing fits.
        Lost: A worker is gone.
    """

    def encoding(storage: str, quality: int) -> Encoding:
        return Encoding(storage, quality, settings.short_side, settings.resample)

    if settings.storage != "fit":
        return Decision(encoding(settings.storage, settings.jpeg_quality))
    assert settings.size_budget_gb is not None
    crew.settle(encoding("raw", 100), QUALITIES)
    estimates = _estimates(images, source, crew)
    for name, size in zip(("raw", *QUALITIES), estimates.tolist(), strict=True):
        if size <= settings.size_budget_gb * 1e9:
            kept = encoding("raw", 100) if name == "raw" else encoding("jpeg", int(name))
            return Decision(kept, round(size))
    raise UserError(
        f"dataset.size_budget_gb: {settings.size_budget_gb:g} GB is too little for {images:,} images: they take "
        f"{_gb(estimates[0])} raw, {_gb(estimates[1])} as JPEG of quality {QUALITIES[0]} and {_gb(estimates[-1])} of "
        f"{QUALITIES[-1]}, the lowest. Raise it, or shrink the images (short_side)."
    )


def _estimates(images: int, source: Callable[[int], ImageSource], crew: Pool) -> Float64[np.ndarray, " ways"]:
    """Bytes of all images raw and at each quality, with a margin for the sample's chance."""
    numbers = np.unique(np.linspace(0, images - 1, min(images, SAMPLE)).round().astype(np.int64)).tolist()
    tasks = (Task(MEASURE, number, source(number)) for number in numbers)
    measured: Sequence[list[int]] = [
        json.loads(bytes(answer.content)) for answer in crew.answers(tasks) if answer.kind == MEASURED
    ]
    if not measured:
        return np.zeros(1 + len(QUALITIES))  # none can be read, which the conversion will say
    sizes = np.asarray(measured, dtype=np.float64)
    if len(numbers) == images:
        return sizes.sum(axis=0) * images / len(sizes)
    error = sizes.std(axis=0) / np.sqrt(len(sizes))
    return (sizes.mean(axis=0) + _DEVIATIONS * error) * images


def _gb(size: float) -> str:
    return f"{size / 1e9:.3g} GB"
