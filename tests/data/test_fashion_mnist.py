"""The reader for Fashion-MNIST-LT and its IDX files."""

from __future__ import annotations

import gzip
from typing import Any

import numpy as np
import pytest

from mem.data.datasets import ImageSet, fashion_mnist
from mem.data.datasets.fashion_mnist import DEBIAN, FILES, find_folder, read_idx
from mem.errors import UserError
from tests.data import miniatures
from tests.data.miniatures import write_idx
from tests.data.reading import assert_same, counts_of, read


def read_fashion(*arguments: Any) -> ImageSet:
    return read(miniatures.fashion_mnist(*arguments))


def test_the_training_images_are_cut_and_the_test_images_are_all_kept(small_fashion_mnist):
    images = read_fashion(small_fashion_mnist)
    assert counts_of(images.train, 10) == [3, 3, 3, 2, 2, 2, 2, 1, 1, 1]
    assert counts_of(images.val, 10) == [1] * 10
    assert counts_of(images.test, 10) == [2] * 10
    assert images.train.read(0).shape == (28, 28, 3)


def test_unzipped_files_in_torchvisions_folder_are_found(small_fashion_mnist, tmp_path_factory):
    root = tmp_path_factory.mktemp("torchvision")
    raw = root / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for name in FILES:
        (raw / name).write_bytes(gzip.decompress((small_fashion_mnist / f"{name}.gz").read_bytes()))
    assert_same(read_fashion(small_fashion_mnist), read_fashion(root))
    assert find_folder(str(root)) == raw


def test_a_missing_file_is_reported_with_ways_to_get_it(small_fashion_mnist):
    (small_fashion_mnist / f"{FILES[2]}.gz").unlink()
    with pytest.raises(UserError) as error:
        read_fashion(small_fashion_mnist)
    assert f"{small_fashion_mnist}: missing {FILES[2]}" in str(error.value)
    assert "apt install dataset-fashion-mnist" in str(error.value)
    assert "dataset.root" in str(error.value)


def test_a_truncated_download_is_refused(small_fashion_mnist):
    path = small_fashion_mnist / f"{FILES[0]}.gz"
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(UserError, match=r"train-images-idx3-ubyte\.gz: cannot be read: .* The file may be truncated"):
        read_fashion(small_fashion_mnist)


def test_a_file_that_is_shorter_than_its_header_specifies_is_refused(tmp_path):
    write_idx(tmp_path / "images", np.zeros((4, 28, 28), dtype=np.uint8), zipped=False)
    content = (tmp_path / "images").read_bytes()
    (tmp_path / "images").write_bytes(content[:-10])
    with pytest.raises(UserError, match="has 3142 bytes, but its header specifies 3152"):
        read_idx(tmp_path / "images")


def test_a_file_of_another_format_is_refused(tmp_path):
    (tmp_path / "images").write_bytes(b"<html>not found</html>")
    with pytest.raises(UserError, match="not an IDX file of unsigned bytes"):
        read_idx(tmp_path / "images")


def test_files_with_another_number_of_images_are_refused(small_fashion_mnist, monkeypatch):
    monkeypatch.setattr(fashion_mnist, "_EXPECTED", {"train": 60_000, "t10k": 10_000})
    with pytest.raises(UserError, match=r"images of shape \(40, 28, 28\) .* Download its files again"):
        read_fashion(small_fashion_mnist)


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="the Debian package dataset-fashion-mnist is not installed")
def test_the_real_files_can_be_cut_from_six_thousand_images_per_class():
    counts = (5900, 2000, 700, 250, 90, 50, 25, 15, 9, 6)
    images = read_fashion(None, counts, 100)
    assert counts_of(images.train, 10) == list(counts)
    assert counts_of(images.test, 10) == [1000] * 10
