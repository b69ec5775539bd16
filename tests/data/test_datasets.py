"""Readers of data sets, on real files and on miniatures of them."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from mem.config import Digits, FashionMnist
from mem.data.datasets import read_dataset
from mem.data.datasets.base import ImageSet, ImageSplit
from mem.data.datasets.fashion_mnist import DEBIAN, FILES, find_folder, read_fashion_mnist, read_idx
from mem.errors import UserError

PIXELS = {"pixel_mean": (0.3, 0.3, 0.3), "pixel_std": (0.3, 0.3, 0.3), "storage": "raw"}


def digits(counts=(110, 107, 104, 101, 70, 45, 25, 16, 11, 7), seed=0) -> Digits:
    cut = {"counts": counts, "seed": seed, "val_per_class": 14}
    return Digits(**PIXELS, source="digits", name="d", cut=cut, test_per_class=50)


def counts_of(split: ImageSplit) -> list[int]:
    return np.bincount(split.labels, minlength=10).tolist()


def test_digits_lt_has_the_counts_asked_for():
    images = read_dataset(digits(), order=0)
    assert counts_of(images.train) == list(digits().cut.counts)
    assert counts_of(images.val) == [14] * 10
    assert counts_of(images.test) == [50] * 10


def test_the_test_split_is_the_same_for_every_cut_and_order():
    names = {read_dataset(digits(seed=seed), order).test.names for seed, order in ((0, 0), (1, 0), (0, 3))}
    assert len(names) == 1


def test_splits_do_not_overlap():
    images = read_dataset(digits(), order=2)
    names = [name for split in images.splits.values() for name in split.names]
    assert len(names) == len(set(names))


def test_an_image_in_two_splits_is_found():
    split = ImageSplit(np.zeros(1, dtype=np.int64), ("a.png",), lambda i: np.zeros((1, 1, 3), dtype=np.uint8))
    with pytest.raises(UserError, match=r"1 images stand in train and in test: a\.png"):
        empty = ImageSplit(np.zeros(0, dtype=np.int64), (), split.read)
        ImageSet(("x",), split, empty, split).require_disjoint()


def test_images_are_bytes_in_three_equal_channels():
    image = read_dataset(digits(), order=0).train.read(3)
    assert (image.shape, image.dtype) == ((8, 8, 3), np.uint8)
    assert (image == image[:, :, :1]).all()
    assert image.max() > 200


def test_counts_beyond_the_data_set_are_refused():
    with pytest.raises(UserError, match=r"class 8 has 124, 120 \+ 14 are asked for"):
        read_dataset(digits(counts=(120,) * 10), order=0)


# --- Fashion-MNIST -------------------------------------------------------------------------------------


def write_idx(path: Path, array: np.ndarray, zipped: bool = True) -> None:
    content = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
    if zipped:
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(content))
    else:
        path.write_bytes(content)


def write_fashion_mnist(folder: Path) -> None:
    """Fashion-MNIST with 40 and 20 images, in the true format."""
    rng = np.random.default_rng(0)
    for part, n in (("train", 40), ("t10k", 20)):
        write_idx(folder / f"{part}-images-idx3-ubyte", rng.integers(0, 256, (n, 28, 28), dtype=np.uint8))
        write_idx(folder / f"{part}-labels-idx1-ubyte", np.arange(n, dtype=np.uint8) % 10)


@pytest.fixture
def miniature(tmp_path, monkeypatch) -> Path:
    """The folder of a small Fashion-MNIST, which the reader takes for whole."""
    monkeypatch.setattr("mem.data.datasets.fashion_mnist._EXPECTED", {"train": 40, "t10k": 20})
    write_fashion_mnist(tmp_path)
    return tmp_path


def fashion(root: Path | None, counts=(3, 3, 3, 2, 2, 2, 2, 1, 1, 1), val_per_class=1) -> FashionMnist:
    cut = {"counts": counts, "seed": 0, "val_per_class": val_per_class}
    return FashionMnist(**PIXELS, source="fashion_mnist", name="f", cut=cut, root=None if root is None else str(root))


def test_the_miniature_goes_through_the_reader(miniature):
    images = read_dataset(fashion(miniature), order=0)
    assert counts_of(images.train) == [3, 3, 3, 2, 2, 2, 2, 1, 1, 1]
    assert counts_of(images.val) == [1] * 10
    assert counts_of(images.test) == [2] * 10
    assert images.train.read(0).shape == (28, 28, 3)


def test_unzipped_files_and_torchvisions_folder_are_found(miniature, tmp_path_factory):
    root = tmp_path_factory.mktemp("torchvision")
    raw = root / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for name in FILES:
        (raw / name).write_bytes(gzip.decompress((miniature / f"{name}.gz").read_bytes()))
    zipped, plain = (read_fashion_mnist(fashion(folder), 0) for folder in (miniature, root))
    np.testing.assert_array_equal(zipped.train.read(1), plain.train.read(1))
    assert find_folder(str(root)) == raw


def test_a_missing_file_is_named_with_how_to_get_it(miniature):
    (miniature / f"{FILES[2]}.gz").unlink()
    with pytest.raises(UserError) as error:
        read_fashion_mnist(fashion(miniature), 0)
    assert f"{miniature}: missing {FILES[2]}" in str(error.value)
    assert "apt install dataset-fashion-mnist" in str(error.value)
    assert "dataset.root" in str(error.value)


def test_a_half_downloaded_file_is_refused(miniature):
    path = miniature / f"{FILES[0]}.gz"
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(UserError, match=r"train-images-idx3-ubyte\.gz: cannot be read, the file may be incomplete"):
        read_fashion_mnist(fashion(miniature), 0)


def test_a_file_shorter_than_its_header_says_is_refused(tmp_path):
    write_idx(tmp_path / "images", np.zeros((4, 28, 28), dtype=np.uint8), zipped=False)
    whole = (tmp_path / "images").read_bytes()
    (tmp_path / "images").write_bytes(whole[:-10])
    with pytest.raises(UserError, match="has 3142 bytes, its header announces 3152"):
        read_idx(tmp_path / "images")


def test_a_file_of_another_format_is_refused(tmp_path):
    (tmp_path / "images").write_bytes(b"<html>not found</html>")
    with pytest.raises(UserError, match="no IDX file of bytes"):
        read_idx(tmp_path / "images")


def test_files_of_another_data_set_are_refused(miniature, monkeypatch):
    monkeypatch.setattr("mem.data.datasets.fashion_mnist._EXPECTED", {"train": 60_000, "t10k": 10_000})
    with pytest.raises(UserError, match="These are other files, or half of them"):
        read_fashion_mnist(fashion(miniature), 0)


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="Debian's package dataset-fashion-mnist is not installed")
def test_the_real_files_have_seven_thousand_images_a_class():
    counts = (5900, 2000, 700, 250, 90, 50, 25, 15, 9, 6)
    images = read_dataset(fashion(None, counts, 100), order=0)
    assert counts_of(images.train) == list(counts)
    assert counts_of(images.test) == [1000] * 10
