"""The reader for Digits-LT, and the check that splits are disjoint."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from sklearn.datasets import load_digits

from mem.config import Digits
from mem.data.datasets import read_dataset
from mem.data.datasets.base import ImageSet, ImageSplit
from mem.data.datasets.reference_counts import DIGITS_CLASSES, DIGITS_SIDE
from mem.errors import UserError
from tests.data.miniatures import PIXELS
from tests.data.reading import counts_of


def digits(counts=(110, 107, 104, 101, 70, 45, 25, 16, 11, 7), seed=0) -> Digits:
    cut = {"counts": counts, "seed": seed, "val_per_class": 14}
    return Digits(**PIXELS, source="digits", name="d", cut=cut, test_per_class=50)


@pytest.mark.parametrize("without_file", [False, True])
def test_the_images_are_those_of_scikit_learn(without_file, monkeypatch):
    if without_file:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    pixels, target = load_digits(return_X_y=True)
    images = read_dataset(digits(), order=0)
    for split in images.splits.values():
        for i in range(len(split)):
            position = int(split.names[i].removeprefix("digits/"))
            assert split.labels[i] == target[position]
            assert (split.read(i)[:, :, 0] == np.round(pixels[position] * (255 / 16)).reshape(8, 8)).all()


def test_the_splits_have_the_configured_counts():
    images = read_dataset(digits(), order=0)
    assert counts_of(images.train, DIGITS_CLASSES) == list(digits().cut.counts)
    assert counts_of(images.val, DIGITS_CLASSES) == [14] * 10
    assert counts_of(images.test, DIGITS_CLASSES) == [50] * 10


def test_the_test_split_is_the_same_for_every_cut_and_class_order():
    names = {read_dataset(digits(seed=seed), order).test.names for seed, order in ((0, 0), (1, 0), (0, 3))}
    assert len(names) == 1


def test_splits_do_not_overlap():
    images = read_dataset(digits(), order=2)
    names = [name for split in images.splits.values() for name in split.names]
    assert len(names) == len(set(names))


def test_an_image_in_two_splits_is_an_error():
    split = ImageSplit(np.zeros(1, dtype=np.int64), ("a.png",), lambda i: np.zeros((1, 1, 3), dtype=np.uint8))
    empty = ImageSplit(np.zeros(0, dtype=np.int64), (), split.read)
    with pytest.raises(UserError, match=r"images listed in both train and test \(1\): a\.png"):
        ImageSet(("x",), split, empty, split).require_disjoint()


def test_images_are_bytes_in_three_equal_channels():
    image = read_dataset(digits(), order=0).train.read(3)
    assert (image.shape, image.dtype) == ((DIGITS_SIDE, DIGITS_SIDE, 3), np.uint8)
    assert (image == image[:, :, :1]).all()
    assert image.max() > 200


def test_more_images_than_the_data_set_has_are_refused():
    with pytest.raises(UserError, match="class 8 has 124"):
        read_dataset(digits(counts=(120,) * 10), order=0)
