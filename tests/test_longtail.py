"""The long-tail protocol: shot groups, class counts, class orders, cuts and class partitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mem import longtail
from mem.config import Shots
from mem.errors import UserError


def test_thresholds_are_exclusive():
    counts = np.array([101, 100, 20, 19])
    assert longtail.shot_groups(counts, Shots()).tolist() == [0, 1, 1, 2]


def test_exclusive_thresholds_reproduce_the_papers_overall_accuracy():
    # In table 1 of the paper, MEM's accuracies on ImageNet-LT are 76.0 (many), 62.0 (medium), 43.7 (few) and 64.9
    # overall. The shot groups have 385, 479 and 136 classes.
    groups = np.array([385, 479, 136])
    assert round(float(groups @ [76.0, 62.0, 43.7]) / 1000, 1) == 64.9
    inclusive = np.array([391, 463, 146])
    assert round(float(inclusive @ [76.0, 62.0, 43.7]) / 1000, 1) != 64.9


@given(order=st.integers(0, 50))
@settings(deadline=None)
def test_a_class_order_permutes_the_counts(order):
    counts = [50, 40, 30, 20, 10]
    ordered = longtail.ordered_counts(counts, order)
    assert sorted(ordered) == sorted(counts)
    assert order != 0 or ordered.tolist() == counts


def test_class_orders_differ():
    assert len({tuple(longtail.ordered_counts(range(1, 11), order)) for order in range(6)}) == 6


@given(
    sizes=st.lists(st.integers(3, 30), min_size=1, max_size=6),
    seed=st.integers(0, 9),
    data=st.data(),
)
@settings(deadline=None)
def test_a_cut_has_the_requested_counts_and_disjoint_parts(sizes, seed, data):
    counts = [data.draw(st.integers(1, size - 1)) for size in sizes]
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)), sizes))
    cut = longtail.cut(labels, np.array(counts), 1, seed)
    assert np.bincount(labels[cut.train], minlength=len(sizes)).tolist() == counts
    assert np.bincount(labels[cut.rest], minlength=len(sizes)).tolist() == [1] * len(sizes)
    assert not set(cut.train) & set(cut.rest)


def test_a_smaller_cut_is_a_subset_of_a_larger_one():
    labels = np.repeat([0, 1], 50)
    large, small = (longtail.cut(labels, np.array([n, n]), 1, seed=0).train for n in (40, 10))
    assert set(small) < set(large)


def test_every_class_with_too_few_images_is_named():
    with pytest.raises(UserError, match=r"class 1 has 5, needs 5 \+ 1; class 2 has 5, needs 7 \+ 1"):
        longtail.cut(np.repeat([0, 1, 2], 5), np.array([4, 5, 7]), 1, seed=0)


def test_partitions_follow_the_three_strategies_of_the_paper():
    counts = np.array([5, 500, 50, 300, 15, 200])
    shots = Shots()
    assert longtail.partition("shot", counts, 3, shots, 0).tolist() == [2, 0, 1, 0, 2, 0]
    assert longtail.partition("cardinality_even", counts, 3, shots, 0).tolist() == [2, 0, 1, 0, 2, 1]
    random = longtail.partition("random_even", counts, 3, shots, 0)
    assert np.bincount(random).tolist() == [2, 2, 2]
    assert not np.array_equal(random, longtail.partition("random_even", counts, 3, shots, 1))


@given(classes=st.integers(2, 60), groups=st.integers(1, 5), seed=st.integers(0, 5))
@settings(deadline=None)
def test_even_partitions_differ_by_at_most_one_class(classes, groups, seed):
    counts = np.random.default_rng(seed).integers(1, 1000, classes)
    for strategy in ("random_even", "cardinality_even"):
        if groups > classes:
            with pytest.raises(UserError, match="leaves a group empty"):
                longtail.partition(strategy, counts, groups, Shots(), seed)
            continue
        sizes = np.bincount(longtail.partition(strategy, counts, groups, Shots(), seed), minlength=groups)
        assert sizes.max() - sizes.min() <= 1


def test_an_empty_group_is_named():
    with pytest.raises(UserError, match="leaves a group empty: few"):
        longtail.partition("shot", np.array([500, 50]), 3, Shots(), 0)


def test_classes_without_images_are_named():
    assert longtail.without_images(np.array([3, 1])) is None
    assert longtail.without_images(np.array([3, 0, 1])) == "class 1 has no training images"
    assert longtail.without_images(np.array([0, 3, 0])) == "2 of 3 classes have no training images: 0, 2"
    many = np.zeros(1200, dtype=np.int64)
    many[::100] = 7
    text = longtail.without_images(many)
    assert text == "1,188 of 1,200 classes have no training images: 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 1,178 more"
