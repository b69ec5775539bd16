"""McNemar's test and Holm's correction."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mem import metrics


@given(st.integers(0, 10_000), st.integers(0, 60))
@settings(deadline=None)
def test_mcnemars_test_equals_a_sum_of_binomials(seed, images):
    generator = np.random.default_rng(seed)
    first, second = generator.random((2, images)) < 0.6
    n10 = sum(bool(a) and not b for a, b in zip(first, second, strict=True))
    n01 = sum(bool(b) and not a for a, b in zip(first, second, strict=True))
    tail = sum(math.comb(n10 + n01, k) for k in range(min(n10, n01) + 1)) / 2 ** (n10 + n01)
    assert metrics.mcnemar(first, second) == (n10, n01, pytest.approx(min(1.0, 2 * tail)))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
@settings(deadline=None)
def test_adjusted_p_values_follow_holm(p_values):
    order = np.argsort(p_values, kind="stable")
    scaled = np.array([(len(p_values) - i) * p_values[k] for i, k in enumerate(order)])
    expected = np.empty(len(p_values))
    expected[order] = np.minimum(np.maximum.accumulate(scaled), 1)
    np.testing.assert_allclose(metrics.holm(p_values), expected)


def test_a_repeated_hypothesis_is_counted_once():
    distinct = metrics.holm([0.01, 0.03, 0.2])
    repeated = metrics.holm([0.01, 0.03, 0.01, 0.2, 0.01], ["a", "b", "a", "c", "a"])
    assert distinct == pytest.approx([0.03, 0.06, 0.2])
    assert repeated == [distinct[0], distinct[1], distinct[0], distinct[2], distinct[0]]
    # Without the hypotheses, the three equal values count three times.
    assert metrics.holm([0.01, 0.03, 0.01, 0.2, 0.01])[0] == pytest.approx(0.05)
