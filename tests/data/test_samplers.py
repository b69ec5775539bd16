"""Samplers: instance, class-balanced, square-root and block sampling."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mem.data.features.blocks import BlockSampler
from mem.data.loading.samplers import IMAGES_PER_VISIT, InstanceSampler, build_sampler

LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(4), [40, 17, 6, 1]))


GROUPS = np.array([0, 0, 1, 2])
"""Group of each class."""


@pytest.mark.parametrize("name", ["instance", "class_balanced", "sqrt", "group_balanced"])
@given(start=st.integers(0, 3000), first=st.integers(1, 90), rest=st.integers(1, 90))
@settings(deadline=None, max_examples=30)
def test_samples_do_not_depend_on_how_the_sequence_is_divided(name, start, first, rest):
    sampler = build_sampler(name, LABELS, 4, 5, GROUPS)
    parts = np.concatenate([sampler.indices(start, first), sampler.indices(start + first, rest)])
    np.testing.assert_array_equal(sampler.indices(start, first + rest), parts)


def test_instance_sampling_yields_every_image_once_per_epoch():
    sampler = InstanceSampler(31, seed=0)
    epochs = [sampler.indices(31 * k, 31) for k in range(3)]
    assert all(sorted(epoch) == list(range(31)) for epoch in epochs)
    assert not np.array_equal(epochs[0], epochs[1])


def test_class_balanced_sampling_visits_all_classes_equally_often_with_four_images_per_visit():
    labels = LABELS[build_sampler("class_balanced", LABELS, 4, 0).indices(0, 4 * IMAGES_PER_VISIT * 100)]
    assert np.bincount(labels).tolist() == [400] * 4
    visits = labels.reshape(-1, IMAGES_PER_VISIT)
    assert (visits == visits[:, :1]).all()
    rounds = visits[:, 0].reshape(-1, 4)
    assert (np.sort(rounds, axis=1) == np.arange(4)).all()


def test_class_balanced_sampling_repeats_an_image_only_after_all_others_of_its_class():
    indices = build_sampler("class_balanced", LABELS, 4, 0).indices(0, 4 * IMAGES_PER_VISIT * 17)
    indices_of_class = indices[LABELS[indices] == 1]
    for epoch in indices_of_class.reshape(-1, 17):
        assert sorted(epoch) == np.flatnonzero(LABELS == 1).tolist()


@pytest.mark.parametrize("name", ["class_balanced", "sqrt", "group_balanced"])
def test_classes_without_images_are_skipped(name):
    labels = LABELS[build_sampler(name, LABELS, 6, 0, np.array([0, 0, 1, 1, 1, 2])).indices(0, 600)]
    assert set(labels) == {0, 1, 2, 3}


def test_group_balanced_sampling_samples_groups_equally_often_and_the_classes_of_a_group_too():
    indices = build_sampler("group_balanced", LABELS, 4, 0, GROUPS).indices(0, 3 * IMAGES_PER_VISIT * 100)
    labels = LABELS[indices]
    assert np.bincount(GROUPS[labels]).tolist() == [400] * 3
    assert np.bincount(labels).tolist() == [200, 200, 400, 400]
    visits = labels.reshape(-1, IMAGES_PER_VISIT)
    assert (visits == visits[:, :1]).all()
    rounds = GROUPS[visits[:, 0]].reshape(-1, 3)
    assert (np.sort(rounds, axis=1) == np.arange(3)).all()
    assert len({tuple(order) for order in rounds.tolist()}) == 6  # every order of three groups occurs in 100 rounds


def test_group_balanced_sampling_repeats_an_image_only_after_all_others_of_its_class():
    indices = build_sampler("group_balanced", LABELS, 4, 0, GROUPS).indices(0, 3 * IMAGES_PER_VISIT * 34)
    indices_of_class = indices[LABELS[indices] == 1][:68]
    for epoch in indices_of_class.reshape(-1, 17):
        assert sorted(epoch) == np.flatnonzero(LABELS == 1).tolist()


def test_groups_of_equal_size_have_different_class_orders():
    labels, groups = np.arange(8), np.arange(8) // 4
    indices = build_sampler("group_balanced", labels, 8, 0, groups).indices(0, IMAGES_PER_VISIT * 8 * 20)
    visits = labels[indices].reshape(-1, IMAGES_PER_VISIT)[:, 0]
    assert (visits[visits < 4] != visits[visits >= 4] - 4).any()


def test_square_root_sampling_chooses_classes_in_proportion_to_the_root_of_their_count():
    labels = LABELS[build_sampler("sqrt", LABELS, 4, 0).indices(0, 20_000)]
    roots = np.sqrt([40, 17, 6, 1])
    np.testing.assert_allclose(np.bincount(labels) / 20_000, roots / roots.sum(), atol=0.01)


def test_an_unknown_sampler_is_an_error():
    with pytest.raises(ValueError, match="unknown sampler 'other'; expected instance"):
        build_sampler("other", LABELS, 4, 0)


# Block sampling


@pytest.mark.parametrize("block", [1, 8, 50, 103, 500])
def test_block_sampling_yields_every_image_once_per_epoch_in_a_different_order(block):
    sampler = BlockSampler(103, 0, block, 3)
    first, second = sampler.indices(0, 103), sampler.indices(103, 103)
    assert sorted(first) == sorted(second) == list(range(103))
    assert first.tolist() != second.tolist()
    assert sampler.indices(98, 12).tolist() == [*first[-5:], *second[:7]]


def test_a_window_consists_of_complete_blocks_from_all_over_the_file():
    sampler = BlockSampler(1000, 0, 10, 5)
    windows = sampler.indices(0, 1000).reshape(20, 50)
    assert all(len(set(window // 10)) == 5 for window in windows)
    assert all(np.ptp(window) > 100 for window in windows)
    assert not any((np.diff(window) == 1).all() for window in windows)


def test_the_images_of_a_block_have_the_same_view_in_an_epoch_and_all_views_occur():
    sampler = BlockSampler(1000, 0, 10, 5)
    views, indices = sampler.views(0, 3000, 4, seed=1), sampler.indices(0, 3000)
    for epoch in range(3):
        part = np.s_[1000 * epoch : 1000 * (epoch + 1)]
        views_by_block = [set(views[part][indices[part] // 10 == block]) for block in range(100)]
        assert all(len(views_of_block) == 1 for views_of_block in views_by_block)
    assert np.bincount(views, minlength=4).min() > 500
    assert sampler.views(1234, 7, 4, seed=1).tolist() == views[1234:1241].tolist()
