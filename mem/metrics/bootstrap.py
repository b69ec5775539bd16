"""Uncertainty of one run's scores due to the sampling of its images, stratified by class.

The numbers of images per class are fixed by the protocol and do not vary. Each class is therefore a stratum, and only
the images within a class vary. Without strata, the difficulty of the classes would count as variation.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float64, Int64

from mem import rng
from mem.longtail import SHOT_NAMES

RESAMPLES = 1000
_CHUNK_CELLS = 4_000_000
"""Maximum number of counts to sample at once, which limits memory use."""


def bootstrap_shots(
    correct: np.ndarray,
    labels: Int64[np.ndarray, " images"],
    groups: Int64[np.ndarray, " classes"],
    resamples: int = RESAMPLES,
    stream: str = "bootstrap",
) -> dict[str, tuple[float, float]]:
    """Return the 95 % bootstrap percentile intervals for the accuracy per shot group and over all images.

    n - 1 of the n images of each class are drawn with replacement, which makes the variance of the class's accuracy
    unbiased (McCarthy and Snowden 1985); with n draws, it would be too small by the factor (n - 1) / n. The variance
    within a class with a single image is unknown. Such a class draws from all classes of its shot group that have a
    single image, which overestimates the variance, except if it is the only one: then it does not vary. The bounds for
    a shot group without images are NaN.

    Args:
        correct: Whether each image is classified correctly.
        labels: True classes.
        groups: Shot group of each class.
        resamples: Number of resamples.
        stream: Name of the random stream.
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
    """Return the 95 % bootstrap intervals for the accuracy difference first - second over the same images.

    Images are drawn as in `bootstrap_shots`.
    """
    only_first, only_second = first_correct & ~second_correct, second_correct & ~first_correct
    values = np.stack([only_first, only_second, ~(only_first | only_second)]).astype(np.int64)
    scores = np.array([1.0, -1.0, 0.0])
    return _percentiles(_resample(values, scores, labels, groups, resamples, "paired bootstrap"))


def balanced_standard_error(correct: np.ndarray, labels: Int64[np.ndarray, " images"], classes: int) -> float:
    """Return the standard error of the mean per-class accuracy due to the sampling of images within the classes.

    The variance of a class's accuracy p over n images is estimated by p (1 - p) / (n - 1). Classes with a single image
    are one stratum together, which overestimates their variance; for one such class, it is the largest possible value,
    1/4. NaN without images.
    """
    images = np.bincount(labels, minlength=classes)
    shares = np.bincount(labels, correct, minlength=classes) / np.maximum(images, 1)
    several, single = images > 1, images == 1
    variance = float((shares[several] * (1 - shares[several]) / (images[several] - 1)).sum())
    if not images.any():
        return math.nan
    if number := int(single.sum()):
        variance += number * float(shares[single].var(ddof=1)) if number > 1 else 0.25
    return math.sqrt(variance) / int((images > 0).sum())


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
    shots = len(SHOT_NAMES)
    if not len(labels):
        return np.full((resamples, shots + 1), np.nan)
    cells = np.stack([np.bincount(labels[row == 1], minlength=len(groups)) for row in outcomes], axis=1)
    present = np.flatnonzero(cells.sum(axis=1))
    cells, group_of_class = cells[present], groups[present]
    images = cells.sum(axis=1)
    shares, draws = _strata(cells, group_of_class), np.maximum(images - 1, 1)
    # Rows are classes; columns are shot groups and all images. A class has the same weight as the others of its group.
    membership = (group_of_class[:, None] == np.arange(shots)).astype(np.float64)
    class_weights = np.divide(
        membership, membership.sum(axis=0), out=np.full_like(membership, np.nan), where=membership.any(axis=0)
    )
    weights = np.concatenate([class_weights, images[:, None] / images.sum()], axis=1)
    generator = rng.generator(0, stream)
    means: list[np.ndarray] = []
    for count in _chunks(resamples, cells.size):
        sampled = generator.multinomial(draws, shares, size=(count, len(present)))
        means.append((sampled @ scores / draws) @ weights)
    return np.concatenate(means)


def _strata(
    cells: Int64[np.ndarray, "classes outcomes"], group_of_class: Int64[np.ndarray, " classes"]
) -> Float64[np.ndarray, "classes outcomes"]:
    """Return the probability of each outcome of an image drawn for a class: from it, or from all with one image."""
    images = cells.sum(axis=1)
    shares = cells / images[:, None]
    for group in range(len(SHOT_NAMES)):
        single = (images == 1) & (group_of_class == group)
        if single.any():
            shares[single] = cells[single].mean(axis=0)
    return shares


def _chunks(resamples: int, cells: int) -> Iterator[int]:
    size = max(1, _CHUNK_CELLS // cells)
    for start in range(0, resamples, size):
        yield min(size, resamples - start)


def _percentiles(means: Float64[np.ndarray, "resamples shots"]) -> dict[str, tuple[float, float]]:
    intervals: dict[str, tuple[float, float]] = {}
    for name, column in zip((*SHOT_NAMES, "all"), means.T, strict=True):
        low, high = (np.nan, np.nan) if np.isnan(column).any() else np.percentile(column, [2.5, 97.5])
        intervals[name] = (float(low), float(high))
    return intervals
