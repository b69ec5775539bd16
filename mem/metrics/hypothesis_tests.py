"""Significance tests: McNemar's test for two methods on the same images, and Holm's correction for several tests."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np


def holm(p_values: Sequence[float], hypotheses: Sequence[Hashable] | None = None) -> list[float]:
    """Return p-values adjusted for multiple comparisons (Holm 1979).

    The i-th smallest of m values (counted from 0) is multiplied by m - i. Adjusted values never decrease with i.

    Args:
        p_values: One p-value per comparison.
        hypotheses: Identity of the hypothesis of each comparison. Comparisons with the same hypothesis, such as those
            of two methods with equal predictions, have the same p-value and are counted once. Default: all differ.
    """
    names = list(range(len(p_values))) if hypotheses is None else list(hypotheses)
    p_of = dict(zip(names, p_values, strict=True))
    adjusted: dict[Hashable, float] = {}
    largest = 0.0
    for rank, name in enumerate(sorted(p_of, key=lambda name: p_of[name])):
        largest = max(largest, min(1.0, p_of[name] * (len(p_of) - rank)))
        adjusted[name] = largest
    return [adjusted[name] for name in names]


def mcnemar(first_correct: np.ndarray, second_correct: np.ndarray) -> tuple[int, int, float]:
    """Return the number of images that only the first method classifies correctly, the same for the second, and p.

    p is the p-value of the exact two-sided form of McNemar's test (1947), a binomial test with probability one half.
    """
    only_first = int((first_correct & ~second_correct).sum())
    only_second = int((second_correct & ~first_correct).sum())
    if only_first + only_second == 0:
        return 0, 0, 1.0
    from scipy import stats  # not needed by `mem evaluate`, which shall start fast

    fewer = min(only_first, only_second)
    p = min(1.0, 2 * float(stats.binom.cdf(fewer, only_first + only_second, 0.5)))
    return only_first, only_second, p
