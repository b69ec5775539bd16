"""How sure a score is, and a difference of two: bootstrap over images, McNemar's test, Student's t over runs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64
from scipy import stats

from mem import rng
from mem.longtail import SHOT_NAMES

RESAMPLES = 1000
_CHUNK_CELLS = 4_000_000
"""Counts that are drawn at a time."""


@dataclass(frozen=True)
class Interval:
    """A mean with the half-width of its 95 % interval."""

    mean: float
    half_width: float | None
    """Student's t over runs; nothing for a single run."""

    def __str__(self) -> str:
        if math.isnan(self.mean):
            return "-"
        return f"{self.mean:.2f}" if self.half_width is None else f"{self.mean:.2f} ± {self.half_width:.2f}"


def interval(values: Sequence[float]) -> Interval:
    """Mean and 95 % interval of independent runs (Student's t)."""
    numbers = np.asarray(values, dtype=np.float64)
    mean = float(numbers.mean()) if len(numbers) else math.nan
    if len(numbers) < 2:
        return Interval(mean, None)
    error = float(numbers.std(ddof=1)) / math.sqrt(len(numbers))
    return Interval(mean, float(stats.t.ppf(0.975, len(numbers) - 1)) * error)


# --- two methods ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PairedDifference:
    """A mean difference over pairs of runs."""

    mean: float
    half_width: float | None
    """Of the 95 % interval; nothing for a single pair."""
    p: float | None
    """Two-sided p-value of the paired t-test; nothing for a single pair."""
    pairs: int


def paired_student(first: Sequence[float], second: Sequence[float]) -> PairedDifference:
    """Difference first - second of two methods on the same runs, by the paired t-test.

    Where all differences are equal there is no spread to test with: p is 1 for no difference, else 0.
    """
    differences = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    found = interval(differences.tolist())
    if found.half_width is None:
        return PairedDifference(found.mean, None, None, len(differences))
    error = float(differences.std(ddof=1)) / math.sqrt(len(differences))
    if error == 0:
        return PairedDifference(found.mean, 0.0, float(found.mean == 0), len(differences))
    p = 2 * float(stats.t.sf(abs(found.mean) / error, len(differences) - 1))
    return PairedDifference(found.mean, found.half_width, p, len(differences))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for their number, so that a grid of methods is not mined for chance (Holm 1979).

    The i-th smallest of m (from 0) is multiplied by m - i, and none becomes smaller than one before it.
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for i, place in enumerate(sorted(range(len(p_values)), key=lambda k: p_values[k])):
        largest = max(largest, min(1.0, p_values[place] * (len(p_values) - i)))
        adjusted[place] = largest
    return adjusted


def mcnemar(first_right: np.ndarray, second_right: np.ndarray) -> tuple[int, int, float]:
    """Images that only the first and only the second method gets right, and the exact two-sided p-value.

    Under the null hypothesis either is as likely: a binomial test with one half (McNemar 1947, in its exact form).
    """
    only_first = int((first_right & ~second_right).sum())
    only_second = int((second_right & ~first_right).sum())
    if only_first + only_second == 0:
        return 0, 0, 1.0
    fewer = min(only_first, only_second)
    p = min(1.0, 2 * float(stats.binom.cdf(fewer, only_first + only_second, 0.5)))
    return only_first, only_second, p


# --- over the images of one run ------------------------------------------------------------------------


def bootstrap_shots(
    right: np.ndarray,
    labels: Int64[np.ndarray, " images"],
    groups: Int64[np.ndarray, " classes"],
    resamples: int = RESAMPLES,
    stream: str = "bootstrap",
) -> dict[str, tuple[float, float]]:
    """95 % interval (percentiles) of the accuracy by shot and of all images, by bootstrap over images.

    Which images a resample draws matters only by how many of each class are right and wrong, and those counts are
    multinomial: they are drawn instead. A class that a resample lacks is left out of its shot's mean. A shot
    without images is NaN.
    """
    values = np.stack([right, ~right]).astype(np.int64)
    return _percentiles(_resampled(values, np.array([1.0, 0.0]), labels, groups, resamples, stream))


def paired_bootstrap_shots(
    first_right: np.ndarray,
    second_right: np.ndarray,
    labels: Int64[np.ndarray, " images"],
    groups: Int64[np.ndarray, " classes"],
    resamples: int = RESAMPLES,
) -> dict[str, tuple[float, float]]:
    """95 % interval of the difference first - second in accuracy by shot, by bootstrap over the images both saw."""
    only_first, only_second = first_right & ~second_right, second_right & ~first_right
    values = np.stack([only_first, only_second, ~(only_first | only_second)]).astype(np.int64)
    worth = np.array([1.0, -1.0, 0.0])
    return _percentiles(_resampled(values, worth, labels, groups, resamples, "paired bootstrap"))


def _resampled(
    outcomes: Int64[np.ndarray, "outcomes images"],
    worth: Float64[np.ndarray, " outcomes"],
    labels: np.ndarray,
    groups: np.ndarray,
    resamples: int,
    stream: str,
) -> Float64[np.ndarray, "resamples shots"]:
    """Mean worth by shot and over all images in each resample; `outcomes` is one-hot over its first dimension."""
    images, classes = len(labels), len(groups)
    shots = len(SHOT_NAMES)
    if not images:
        return np.full((resamples, shots + 1), np.nan)
    cells = np.stack([np.bincount(labels, row, minlength=classes) for row in outcomes])
    members = (groups[:, None] == np.arange(shots)).astype(np.float64)
    generator = rng.generator(0, stream)
    means: list[np.ndarray] = []
    for count in _chunks(resamples, cells.size):
        drawn = generator.multinomial(images, (cells / images).ravel(), size=count).reshape(count, len(worth), classes)
        total = np.einsum("o,roc->rc", worth, drawn.astype(np.float64))
        seen = drawn.sum(axis=1)
        by_class = np.divide(total, seen, out=np.zeros_like(total), where=seen > 0)
        present = (seen > 0) @ members
        by_shot = np.divide(by_class @ members, present, out=np.full((count, shots), np.nan), where=present > 0)
        means.append(np.concatenate([by_shot, total.sum(axis=1, keepdims=True) / images], axis=1))
    return np.concatenate(means)


def _chunks(resamples: int, cells: int) -> Iterator[int]:
    size = max(1, _CHUNK_CELLS // cells)
    for start in range(0, resamples, size):
        yield min(size, resamples - start)


def _percentiles(means: Float64[np.ndarray, "resamples shots"]) -> dict[str, tuple[float, float]]:
    found: dict[str, tuple[float, float]] = {}
    for name, column in zip((*SHOT_NAMES, "all"), means.T, strict=True):
        present = column[~np.isnan(column)]
        low, high = np.percentile(present, [2.5, 97.5]) if len(present) else (np.nan, np.nan)
        found[name] = (float(low), float(high))
    return found
