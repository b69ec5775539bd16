"""Confidence intervals and significance tests: bootstrap over images, McNemar's test, Student's t over runs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from mem import rng
from mem.longtail import SHOT_NAMES

RESAMPLES = 1000
_CHUNK_CELLS = 4_000_000
"""Maximum number of multinomial counts to sample at once, which limits memory use."""


@dataclass(frozen=True)
class Interval:
    """A mean and the half-width of its 95 % confidence interval."""

    mean: float
    half_width: float | None
    """Computed with Student's t-distribution over runs; None for a single run."""

    def __str__(self) -> str:
        if math.isnan(self.mean):
            return "-"
        return f"{self.mean:.2f}" if self.half_width is None else f"{self.mean:.2f} ± {self.half_width:.2f}"


def interval(values: Sequence[float]) -> Interval:
    """Return the mean and the 95 % confidence interval over independent runs (Student's t)."""
    numbers = np.asarray(values, dtype=np.float64)
    mean = float(numbers.mean()) if len(numbers) else math.nan
    if len(numbers) < 2:
        return Interval(mean, None)
    from scipy import special  # not needed by `mem evaluate`, which shall start fast

    error = float(numbers.std(ddof=1)) / math.sqrt(len(numbers))
    return Interval(mean, float(special.stdtrit(len(numbers) - 1, 0.975)) * error)


# --- comparison of two methods ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PairedDifference:
    """Mean difference between two methods over pairs of runs."""

    mean: float
    half_width: float | None
    """Half-width of the 95 % interval; None for a single pair."""
    p: float | None
    """Two-sided p-value of the paired t-test; None for a single pair."""
    pairs: int


def paired_student(first: Sequence[float], second: Sequence[float]) -> PairedDifference:
    """Return the mean of first - second over pairs of runs of two methods, with the paired t-test.

    If all differences are equal, their variance is zero. In this case, p is 1 if the differences are zero, and 0
    otherwise.
    """
    differences = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    found = interval(differences.tolist())
    if found.half_width is None:
        return PairedDifference(found.mean, None, None, len(differences))
    error = float(differences.std(ddof=1)) / math.sqrt(len(differences))
    if error == 0:
        return PairedDifference(found.mean, 0.0, float(found.mean == 0), len(differences))
    from scipy import special

    p = 2 * float(special.stdtr(len(differences) - 1, -abs(found.mean) / error))
    return PairedDifference(found.mean, found.half_width, p, len(differences))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for multiple comparisons (Holm 1979).

    The i-th smallest of m values (counted from 0) is multiplied by m - i. Adjusted values never decrease with i.
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda k: p_values[k])):
        largest = max(largest, min(1.0, p_values[i] * (len(p_values) - rank)))
        adjusted[i] = largest
    return adjusted


def mcnemar(first_correct: np.ndarray, second_correct: np.ndarray) -> tuple[int, int, float]:
    """Return the number of images that only the first method classifies correctly, the same for the second, and p.

    p is the p-value of the exact two-sided form of McNemar's test (1947), a binomial test with probability one half.
    """
    only_first = int((first_correct & ~second_correct).sum())
    only_second = int((second_correct & ~first_correct).sum())
    if only_first + only_second == 0:
        return 0, 0, 1.0
    from scipy import stats

    fewer = min(only_first, only_second)
    p = min(1.0, 2 * float(stats.binom.cdf(fewer, only_first + only_second, 0.5)))
    return only_first, only_second, p


# --- intervals over the images of one run ------------------------------------------------------------------------


def bootstrap_shots(
    correct: np.ndarray,
    labels: Int64[np.ndarray, " images"],
    groups: Int64[np.ndarray, " classes"],
    resamples: int = RESAMPLES,
    stream: str = "bootstrap",
) -> dict[str, tuple[float, float]]:
    """Return the 95 % bootstrap percentile intervals for the accuracy per shot group and over all images.

    The bootstrap resamples images. The accuracy of a resample depends only on the numbers of correctly and incorrectly
    classified images per class. These numbers follow a multinomial distribution and are sampled directly. A class
    without images in a resample is excluded from the mean of its shot group. The bounds for a shot group without images
    are NaN.
    """
    values = np.stack([correct, ~correct]).astype(np.int64)
    return _percentiles(_resample(values, np.array([1.0, 0.0]), labels, groups, resamples, stream))


def paired_bootstrap_shots(
    first_correct: np.ndarray,
    second_correct: np.ndarray,
    labels: Int64[np.ndarray, " images"],
    groups: Int64[np.ndarray, " classes"],
    resamples: int = RESAMPLES,
) -> dict[str, tuple[float, float]]:
    """Return the 95 % bootstrap intervals for the accuracy difference first - second over the same images."""
    only_first, only_second = first_correct & ~second_correct, second_correct & ~first_correct
    values = np.stack([only_first, only_second, ~(only_first | only_second)]).astype(np.int64)
    scores = np.array([1.0, -1.0, 0.0])
    return _percentiles(_resample(values, scores, labels, groups, resamples, "paired bootstrap"))


def _resample(
    outcomes: Int64[np.ndarray, "outcomes images"],
    scores: Float64[np.ndarray, " outcomes"],
    labels: np.ndarray,
    groups: np.ndarray,
    resamples: int,
    stream: str,
) -> Float64[np.ndarray, "resamples shots"]:
    """Return the mean score per shot group and over all images in each resample.

    Args:
        outcomes: Outcome of each image, one-hot over the first dimension.
        scores: Score of each outcome.
        labels: True classes.
        groups: Shot group of each class.
        resamples: Number of resamples.
        stream: Name of the random stream.
    """
    images, classes = len(labels), len(groups)
    shots = len(SHOT_NAMES)
    if not images:
        return np.full((resamples, shots + 1), np.nan)
    cells = np.stack([np.bincount(labels, row, minlength=classes) for row in outcomes])
    membership = (groups[:, None] == np.arange(shots)).astype(np.float64)
    generator = rng.generator(0, stream)
    means: list[np.ndarray] = []
    for count in _chunks(resamples, cells.size):
        sampled = generator.multinomial(images, (cells / images).ravel(), size=count)
        sampled = sampled.reshape(count, len(scores), classes)
        total = np.einsum("o,roc->rc", scores, sampled.astype(np.float64))
        class_images = sampled.sum(axis=1)
        by_class = np.divide(total, class_images, out=np.zeros_like(total), where=class_images > 0)
        present = (class_images > 0) @ membership
        by_shot = np.divide(by_class @ membership, present, out=np.full((count, shots), np.nan), where=present > 0)
        means.append(np.concatenate([by_shot, total.sum(axis=1, keepdims=True) / images], axis=1))
    return np.concatenate(means)


def _chunks(resamples: int, cells: int) -> Iterator[int]:
    size = max(1, _CHUNK_CELLS // cells)
    for start in range(0, resamples, size):
        yield min(size, resamples - start)


def _percentiles(means: Float64[np.ndarray, "resamples shots"]) -> dict[str, tuple[float, float]]:
    intervals: dict[str, tuple[float, float]] = {}
    for name, column in zip((*SHOT_NAMES, "all"), means.T, strict=True):
        present = column[~np.isnan(column)]
        low, high = np.percentile(present, [2.5, 97.5]) if len(present) else (np.nan, np.nan)
        intervals[name] = (float(low), float(high))
    return intervals
