"""Random numbers that depend only on the position of a sample."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mem import rng


@given(start=st.integers(0, 10**9), first=st.integers(1, 40), rest=st.integers(1, 40), width=st.integers(1, 30))
@settings(deadline=None)
def test_numbers_do_not_depend_on_how_a_range_of_samples_is_divided(start, first, rest, width):
    whole = rng.uniforms(3, "mask", start, first + rest, width)
    parts = [rng.uniforms(3, "mask", start, first, width), rng.uniforms(3, "mask", start + first, rest, width)]
    np.testing.assert_array_equal(whole, np.concatenate(parts))


def test_seeds_and_streams_are_independent():
    base = rng.uniforms(0, "mask", 0, 1000, 1)[:, 0]
    for other in (rng.uniforms(1, "mask", 0, 1000, 1), rng.uniforms(0, "augmentation", 0, 1000, 1)):
        assert abs(np.corrcoef(base, other[:, 0])[0, 1]) < 0.1


def test_numbers_are_uniform():
    numbers = rng.uniforms(0, "mask", 5, 20_000, 3)
    assert 0 <= numbers.min() < numbers.max() < 1
    np.testing.assert_allclose(np.histogram(numbers, 10, (0, 1))[0] / numbers.size, 0.1, atol=0.005)


def test_consecutive_seeds_do_not_share_permutations():
    # FFCV shuffles with default_rng(seed + epoch), so seed 8 in epoch 0 has the same order as seed 7 in epoch 1.
    assert not np.array_equal(rng.permutation(8, "order", 0, 50), rng.permutation(7, "order", 1, 50))
    assert sorted(rng.permutation(8, "order", 0, 50)) == list(range(50))
