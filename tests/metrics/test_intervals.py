"""Intervals and significance tests, compared with SciPy, binomial sums and a bootstrap that resamples images."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from scipy import stats

from mem import metrics

GROUPS = np.array([0, 0, 1, 1, 2, 2])


def two_methods(seed: int, images: int = 300) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return labels, and whether each prediction is correct, for two methods that mostly agree."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 6, images)
    first = generator.random(images) < 0.9 - 0.1 * labels
    flips = generator.random(images) < 0.15
    return labels, first, np.where(flips, ~first, first)


def resampled_images(scores: np.ndarray, labels: np.ndarray, resamples: int) -> np.ndarray:
    """Return the mean score per shot group and over all images in each resample of the images."""
    generator = np.random.default_rng(1)
    rows = []
    for _ in range(resamples):
        sampled = generator.integers(0, len(labels), len(labels))
        row = []
        for g in range(3):
            classes = [k for k in np.flatnonzero(GROUPS == g) if (labels[sampled] == k).any()]
            row.append(np.mean([scores[sampled][labels[sampled] == k].mean() for k in classes]))
        rows.append([*row, scores[sampled].mean()])
    return np.array(rows)


def test_the_bootstrap_equals_one_that_resamples_images():
    labels, correct, _ = two_methods(0)
    found = metrics.bootstrap_shots(correct, labels, GROUPS, resamples=4000)
    low, high = np.percentile(resampled_images(correct.astype(float), labels, 4000), [2.5, 97.5], axis=0)
    np.testing.assert_allclose([interval[0] for interval in found.values()], low, atol=0.006)
    np.testing.assert_allclose([interval[1] for interval in found.values()], high, atol=0.006)


def test_the_bootstrap_of_all_images_has_the_quantiles_of_the_binomial():
    labels, correct, _ = two_methods(1, images=1000)
    low, high = metrics.bootstrap_shots(correct, labels, GROUPS, resamples=20_000)["all"]
    expected = stats.binom.ppf([0.025, 0.975], 1000, correct.mean()) / 1000
    np.testing.assert_allclose([low, high], expected, atol=0.0015)


def test_the_paired_bootstrap_equals_one_that_resamples_images():
    labels, first, second = two_methods(2)
    found = metrics.paired_bootstrap_shots(first, second, labels, GROUPS, resamples=4000)
    sampled = resampled_images(first.astype(float) - second.astype(float), labels, 4000)
    low, high = np.percentile(sampled, [2.5, 97.5], axis=0)
    np.testing.assert_allclose([interval[0] for interval in found.values()], low, atol=0.006)
    np.testing.assert_allclose([interval[1] for interval in found.values()], high, atol=0.006)


def test_the_bootstrap_is_reproducible_and_nan_for_a_shot_group_without_images():
    labels, correct, _ = two_methods(3)
    some = labels < 4
    once = metrics.bootstrap_shots(correct[some], labels[some], GROUPS)
    np.testing.assert_equal(once, metrics.bootstrap_shots(correct[some], labels[some], GROUPS))
    assert all(math.isnan(bound) for bound in once["few"])
    assert not any(math.isnan(bound) for shot in ("many", "medium", "all") for bound in once[shot])


@given(st.integers(0, 10_000), st.integers(0, 60))
@settings(deadline=None)
def test_mcnemars_test_equals_a_sum_of_binomials(seed, images):
    generator = np.random.default_rng(seed)
    first, second = generator.random((2, images)) < 0.6
    n10 = sum(bool(a) and not b for a, b in zip(first, second, strict=True))
    n01 = sum(bool(b) and not a for a, b in zip(first, second, strict=True))
    tail = sum(math.comb(n10 + n01, k) for k in range(min(n10, n01) + 1)) / 2 ** (n10 + n01)
    assert metrics.mcnemar(first, second) == (n10, n01, pytest.approx(min(1.0, 2 * tail)))


@given(npst.arrays(np.float64, (2, 7), elements=st.floats(0, 100), unique=True))
@settings(deadline=None)
def test_the_paired_t_test_equals_that_of_scipy(values):
    first, second = values
    if np.ptp(first - second) < 1e-6:
        return
    expected = stats.ttest_rel(first, second)
    low, high = expected.confidence_interval(0.95)
    found = metrics.paired_student(first.tolist(), second.tolist())
    assert found.p == pytest.approx(expected.pvalue, abs=1e-9)
    assert found.mean - found.half_width == pytest.approx(low, abs=1e-6)
    assert found.mean + found.half_width == pytest.approx(high, abs=1e-6)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
@settings(deadline=None)
def test_adjusted_p_values_follow_holm(p_values):
    order = np.argsort(p_values, kind="stable")
    scaled = np.array([(len(p_values) - i) * p_values[k] for i, k in enumerate(order)])
    expected = np.empty(len(p_values))
    expected[order] = np.minimum(np.maximum.accumulate(scaled), 1)
    np.testing.assert_allclose(metrics.holm(p_values), expected)


def test_one_pair_has_no_interval_and_equal_differences_have_a_width_of_zero():
    assert metrics.paired_student([3.0], [1.0]) == metrics.PairedDifference(2.0, None, None, 1)
    assert metrics.paired_student([3.0, 4.0], [3.0, 4.0]) == metrics.PairedDifference(0.0, 0.0, 1.0, 2)
    assert metrics.paired_student([3.0, 4.0], [2.0, 3.0]) == metrics.PairedDifference(1.0, 0.0, 0.0, 2)
