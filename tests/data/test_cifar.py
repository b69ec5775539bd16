"""The reader for CIFAR-10-LT and CIFAR-100-LT, with archives in the official formats."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from mem.config import Shots
from mem.data.datasets import cifar
from mem.data.datasets.reference_counts import CIFAR, CIFAR_LT
from mem.longtail import shot_groups
from tests.data import miniatures
from tests.data.reading import assert_same, counts_of, read


@pytest.mark.parametrize("classes", [10, 100])
def test_all_archive_formats_give_the_same_data(classes, tmp_path, small_cifar):
    small_cifar(classes)
    formats = []
    for binary, packed in itertools.product((False, True), repeat=2):
        folder = tmp_path / f"{binary}{packed}"
        folder.mkdir()
        formats.append(read(miniatures.cifar(folder, classes, binary, packed)))
    for other in formats[1:]:
        assert_same(formats[0], other)
    counts = counts_of(formats[0].train, classes)
    assert (counts[0], counts[-1], len(formats[0].classes)) == (6, 2, classes)
    assert counts_of(formats[0].test, classes) == [2] * classes


def test_pixels_are_read_from_red_green_and_blue_planes(tmp_path, small_cifar):
    small_cifar(10)
    values = miniatures.cifar(tmp_path, 10, binary=True, packed=False, per_class=6)
    record = np.fromfile(tmp_path / "cifar-10-batches-bin" / "data_batch_1.bin", np.uint8)[:3073]
    images = read(values | {"cut": {"counts": [6] * 10, "seed": 0, "val_per_class": 0}})
    first = images.train.names.index("cifar-10/train/0")
    image = images.train.read(first)
    assert images.train.labels[first] == record[0]
    assert image[2, 5].tolist() == [record[1 + plane * 1024 + 2 * 32 + 5] for plane in range(3)]


def test_the_archive_is_found_in_the_folder_that_contains_it(tmp_path, small_cifar):
    small_cifar(100)
    values = miniatures.cifar(tmp_path, 100)
    assert_same(read(values), read(values | {"root": str(tmp_path)}))


@pytest.mark.parametrize(
    ("classes", "imbalance", "total"),
    [
        (10, 100, 12_406),
        (10, 50, 13_996),
        (10, 10, 20_431),
        (100, 100, 10_847),
        (100, 50, 12_608),
        (100, 10, 19_573),
    ],
)
def test_the_usual_cut_gives_the_published_counts(classes, imbalance, total, tmp_path, monkeypatch):
    labels = {"train": np.arange(CIFAR[classes].train) % classes, "test": np.arange(CIFAR[classes].test) % classes}
    blank = np.zeros((1, 3072), dtype=np.uint8)
    monkeypatch.setattr(
        cifar,
        "_read",
        lambda archive_format, archive, files, classes, expected: (
            np.broadcast_to(blank, (expected, 3072)),
            labels["train" if expected == 50_000 else "test"],
        ),
    )
    values = miniatures.cifar(tmp_path, classes)
    values["cut"] = {"imbalance": imbalance, "seed": 0, "val_per_class": 0}
    images = read(values)
    reference = images.reference
    assert reference is CIFAR_LT[classes, imbalance]
    assert len(images.train) == total == reference.images["train"]
    counts = np.bincount(images.train.labels)
    assert (counts[0], counts.max(), counts.min()) == (50_000 // classes, reference.largest, reference.smallest)
    assert len(images.val) == 0
    if reference.groups:
        assert np.bincount(shot_groups(counts, Shots())).tolist() == list(reference.groups)


def test_a_cut_that_keeps_images_for_val_has_no_published_counts(tmp_path, small_cifar):
    small_cifar(10)
    values = miniatures.cifar(tmp_path, 10)
    values["cut"] = {"imbalance": 100 / 30, "seed": 0, "val_per_class": 1, "largest": 5}
    images = read(values)
    assert images.reference is None
    assert counts_of(images.val, 10) == [1] * 10
