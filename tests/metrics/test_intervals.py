"""Intervals and paired t-tests over runs, compared with SciPy and by their coverage in simulated studies."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from scipy import stats

from mem import metrics

REPLICATES = 2000


@given(npst.arrays(np.float64, (2, 7), elements=st.floats(0, 100), unique=True))
@settings(deadline=None)
def test_the_paired_t_test_over_seeds_equals_that_of_scipy(values):
    first, second = values
    if np.ptp(first - second) < 1e-6:
        return
    expected = stats.ttest_rel(first, second)
    low, high = expected.confidence_interval(0.95)
    found = metrics.paired_student(first.tolist(), second.tolist())
    assert found.p == pytest.approx(expected.pvalue, abs=1e-9)
    assert found.mean - found.half_width == pytest.approx(low, abs=1e-6)
    assert found.mean + found.half_width == pytest.approx(high, abs=1e-6)
    assert found.over == "seeds"


@given(npst.arrays(np.float64, (2, 4, 3), elements=st.floats(0, 100), unique=True))
@settings(deadline=None)
def test_the_paired_t_test_over_class_orders_equals_that_of_scipy_on_the_means_of_the_orders(values):
    first, second = values
    means = first.mean(axis=1), second.mean(axis=1)
    if np.ptp(means[0] - means[1]) < 1e-6:
        return
    expected = stats.ttest_rel(*means)
    orders = np.repeat(np.arange(4), 3)
    shuffled = np.random.default_rng(0).permutation(12)
    pairs = first.ravel()[shuffled].tolist(), second.ravel()[shuffled].tolist()
    found = metrics.paired_student(*pairs, orders[shuffled].tolist())
    assert found.p == pytest.approx(expected.pvalue, abs=1e-9)
    low, high = expected.confidence_interval(0.95)
    assert (found.mean - found.half_width, found.mean + found.half_width) == pytest.approx((low, high), abs=1e-6)
    assert (found.pairs, found.over) == (12, "class orders")


def test_one_pair_and_equal_differences_other_than_zero_have_no_interval():
    assert metrics.paired_student([3.0], [1.0]) == metrics.PairedDifference(2.0, None, None, 1)
    assert metrics.paired_student([3.0, 4.0], [3.0, 4.0]) == metrics.PairedDifference(0.0, 0.0, 1.0, 2, "seeds")
    assert metrics.paired_student([3.0, 4.0], [2.0, 3.0]) == metrics.PairedDifference(1.0, None, None, 2, "seeds")
    rounded = metrics.paired_student([97.0, 96.6], [96.8, 96.4])
    assert rounded.mean == pytest.approx(0.2)
    assert (rounded.half_width, rounded.p) == (None, None)


def test_orders_have_equal_weights_and_a_single_order_is_an_interval_over_seeds():
    unequal = metrics.interval([1.0, 2.0, 3.0, 10.0], [0, 0, 0, 1])
    assert (unequal.mean, unequal.over) == (6.0, "class orders")
    assert unequal.half_width == pytest.approx(stats.t.ppf(0.975, 1) * np.std([2.0, 10.0], ddof=1) / np.sqrt(2))
    seeds = metrics.interval([1.0, 2.0, 3.0], [4, 4, 4])
    assert seeds == metrics.interval([1.0, 2.0, 3.0])
    assert seeds.over == "seeds"
    assert metrics.interval([1.0], [4]) == metrics.Interval(1.0, None)


def simulated_studies(orders: int, seeds: int, order_effect: float, seed_noise: float) -> np.ndarray:
    """Return scores of shape (studies, orders * seeds): a true mean of 50, an effect per order, and noise per seed."""
    generator = np.random.default_rng(20)
    effects = generator.normal(0, order_effect, (REPLICATES, orders, 1))
    noise = generator.normal(0, seed_noise, (REPLICATES, orders, seeds))
    return (50 + effects + noise).reshape(REPLICATES, -1)


def coverage(studies: np.ndarray, orders: list[int] | None) -> float:
    """Return the share of studies whose interval contains the true mean."""
    intervals = [metrics.interval(values, orders) for values in studies.tolist()]
    return float(np.mean([abs(found.mean - 50) <= found.half_width for found in intervals]))


@pytest.mark.parametrize(("orders", "seeds"), [(3, 3), (5, 2), (5, 3)])
def test_intervals_over_class_orders_cover_the_mean_and_intervals_over_runs_do_not(orders, seeds):
    studies = simulated_studies(orders, seeds, order_effect=1.0, seed_noise=0.5)
    label = np.repeat(np.arange(orders), seeds).tolist()
    assert 0.93 <= coverage(studies, label) <= 0.97
    # The former rule: all runs are independent.
    assert coverage(studies, None) < 0.85


def test_with_one_seed_per_order_the_interval_is_that_over_runs():
    studies = simulated_studies(5, 1, order_effect=1.0, seed_noise=0.5)
    assert 0.93 <= coverage(studies, list(range(5))) <= 0.97
    found, runs = metrics.interval(studies[0].tolist(), list(range(5))), metrics.interval(studies[0].tolist())
    assert (found.mean, found.half_width) == (runs.mean, runs.half_width)


def test_paired_differences_cover_the_true_difference_with_effects_of_the_class_order():
    generator = np.random.default_rng(21)
    orders = np.repeat(np.arange(5), 3)
    covered = {"orders": 0, "runs": 0}
    for _ in range(REPLICATES):
        shared = generator.normal(50, 3, 15)
        first = shared + 0.5 + generator.normal(0, 0.8, 5)[orders] + generator.normal(0, 0.3, 15)
        second = shared + generator.normal(0, 0.3, 15)
        for name, labels in (("orders", orders.tolist()), ("runs", None)):
            found = metrics.paired_student(first.tolist(), second.tolist(), labels)
            covered[name] += abs(found.mean - 0.5) <= found.half_width
    assert 0.93 <= covered["orders"] / REPLICATES <= 0.97
    assert covered["runs"] / REPLICATES < 0.85
