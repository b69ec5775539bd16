"""Operations on train: val held out or taken from discarded images, and the exponential long tail."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from mem.config import LongTailCut, Shots
from mem.data.datasets.splits import describe_holdout
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


def test_the_val_split_of_a_holdout_is_described(tmp_path):
    images = read(miniatures.inaturalist_2018(tmp_path) | {"holdout": {"share": 0.2, "seed": 0}})
    train, val = (np.array(counts_of(split, 12)) for split in (images.train, images.val))
    shots = Shots(many_above=int((train + val)[0]) - 1, few_below=int(train[1]) + 1)
    text = describe_holdout(images, shots)
    assert text.startswith(f"`holdout` moved {val.sum()} of {(train + val).sum()} training images to val.")
    assert f"Val has the long tail of train: {val.max()} to 0 images per class." in text
    assert f"{(val == 0).sum()} of 12 classes have no val images" in text
    few = train + val < shots.few_below
    assert few.sum() != (train < shots.few_below).sum()
    assert f"the {few.sum()} few-shot classes have {val[few].sum()} val images together" in text
    assert text.endswith(f"Shot groups are defined by the training images before the holdout ({shots})")
    assert describe_holdout(read(miniatures.inaturalist_2018(tmp_path)), shots) == ""


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
