"""Operations on train: val held out or taken from discarded images, and the exponential long tail."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from mem.config import LongTailCut
from mem.longtail import hold_out_share, tail_counts
from tests.data import miniatures
from tests.data.reading import counts_of, read


@given(
    counts=st.lists(st.integers(1, 40), min_size=1, max_size=12),
    share=st.floats(0.01, 0.99),
    seed=st.integers(0, 5),
)
@hypothesis_settings(deadline=None)
def test_a_share_keeps_an_image_of_every_class_and_loses_no_image(counts, share, seed):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    parts = hold_out_share(labels, len(counts), share, seed, "holdout")
    assert sorted([*parts.train.tolist(), *parts.rest.tolist()]) == list(range(len(labels)))
    for k, count in enumerate(counts):
        assert (labels[parts.rest] == k).sum() == min(int(share * count + 0.5), count - 1)
    again = hold_out_share(labels, len(counts), share, seed, "holdout")
    np.testing.assert_array_equal(parts.rest, again.rest)


def test_a_holdout_is_taken_out_of_train_and_is_the_same_every_time(tmp_path):
    values = miniatures.inaturalist_2018(tmp_path)
    complete = read(values)
    held = read(values | {"holdout": {"share": 0.2, "seed": 0}})
    assert held.held_out
    assert not complete.held_out
    assert set(held.train.names) | set(held.val.names) == set(complete.train.names)
    assert len(held.train) + len(held.val) == len(complete.train)
    assert min(counts_of(held.train, 12)) >= 1
    assert held.test.names == complete.test.names
    assert read(values | {"holdout": {"share": 0.2, "seed": 0}}).val.names == held.val.names
    assert read(values | {"holdout": {"share": 0.2, "seed": 1}}).val.names != held.val.names
    for i in range(len(held.val)):
        assert held.val.read(i) == Path(held.val.files[i]).read_bytes()
        assert held.val.files[i].endswith(held.val.names[i])


def test_val_of_a_cut_data_set_is_taken_from_the_discarded_images(tmp_path, small_cifar):
    small_cifar(10)
    values = miniatures.cifar(tmp_path, 10)
    without = read(values | {"cut": {"imbalance": 2, "largest": 4, "seed": 0, "val_per_class": 0}})
    images = read(values | {"cut": {"imbalance": 2, "largest": 4, "seed": 0, "val_per_class": 2}})
    assert images.train.names == without.train.names
    assert counts_of(images.val, 10) == [2] * 10
    assert not set(images.val.names) & set(images.train.names)


@given(imbalance=st.floats(1, 200), largest=st.integers(200, 5000), classes=st.integers(2, 100))
@hypothesis_settings(deadline=None)
def test_the_exponential_tail_decreases_from_the_largest_class_to_the_smallest(imbalance, largest, classes):
    cut = LongTailCut(imbalance=imbalance, largest=largest, seed=0, val_per_class=0)
    counts = tail_counts(cut, np.full(classes, 5000))
    by_formula = [int(largest * (1 / imbalance) ** (i / (classes - 1))) for i in range(classes)]
    assert np.abs(np.subtract(counts, by_formula)).max() <= 1  # rounding may differ if the product is an integer
    assert counts[0] == largest
    assert list(counts) == sorted(counts, reverse=True)
