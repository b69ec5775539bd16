"""Samplers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mem.data.loading.samplers import IMAGES_PER_VISIT, InstanceSampler, build_sampler

LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(4), [40, 17, 6, 1]))


@pytest.mark.parametrize("sampler", ["instance", "class_balanced", "sqrt"])
@given(start=st.integers(0, 3000), first=st.integers(1, 90), rest=st.integers(1, 90))
@settings(deadline=None, max_examples=30)
def test_a_stretch_is_the_same_however_it_is_cut(sampler, start, first, rest):
    order = build_sampler(sampler, LABELS, 4, seed=5)
    parts = np.concatenate([order.indices(start, first), order.indices(start + first, rest)])
    np.testing.assert_array_equal(order.indices(start, first + rest), parts)


def test_by_instance_each_image_comes_once_an_epoch():
    order = InstanceSampler(31, seed=0)
    epochs = [order.indices(31 * k, 31) for k in range(3)]
    assert all(sorted(epoch) == list(range(31)) for epoch in epochs)
    assert not np.array_equal(epochs[0], epochs[1])


def test_class_balanced_visits_every_class_alike_and_takes_four_images_a_visit():
    drawn = LABELS[build_sampler("class_balanced", LABELS, 4, 0).indices(0, 4 * IMAGES_PER_VISIT * 100)]
    assert np.bincount(drawn).tolist() == [400] * 4
    visits = drawn.reshape(-1, IMAGES_PER_VISIT)
    assert (visits == visits[:, :1]).all()
    rounds = visits[:, 0].reshape(-1, 4)
    assert (np.sort(rounds, axis=1) == np.arange(4)).all()


def test_class_balanced_takes_each_image_of_a_class_once_before_any_again():
    indices = build_sampler("class_balanced", LABELS, 4, 0).indices(0, 4 * IMAGES_PER_VISIT * 17)
    of_class = indices[LABELS[indices] == 1]
    for epoch in of_class.reshape(-1, 17):
        assert sorted(epoch) == np.flatnonzero(LABELS == 1).tolist()


def test_a_class_without_images_is_left_out():
    for sampler in ("class_balanced", "sqrt"):
        drawn = LABELS[build_sampler(sampler, LABELS, 6, 0).indices(0, 600)]
        assert set(drawn) == {0, 1, 2, 3}


def test_sqrt_draws_classes_with_the_root_of_their_count():
    drawn = LABELS[build_sampler("sqrt", LABELS, 4, 0).indices(0, 20_000)]
    roots = np.sqrt([40, 17, 6, 1])
    np.testing.assert_allclose(np.bincount(drawn) / 20_000, roots / roots.sum(), atol=0.01)
