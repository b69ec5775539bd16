"""Fixtures for the data tests: a tree of image files, its reference conversion, and a dataset to check."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from mem.data.datasets import cifar, fashion_mnist
from tests.data import miniatures
from tests.data.conversions import CLASSES, COUNTS, converted, photo
from tests.data.twelve_classes import write_files


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """Write JPEG files with quality 95 in class folders below split folders, and return the root folder."""
    root = tmp_path_factory.mktemp("tree")
    for s, (split, count) in enumerate(COUNTS.items()):
        for i in range(count):
            folder = root / split / f"class{i % CLASSES}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(photo(1000 * s + i)).save(folder / f"{i:04d}.jpg", quality=95)
    return root


@pytest.fixture
def tree_copy(tree, tmp_path) -> Path:
    """Return a copy of `tree` that a test may modify."""
    return shutil.copytree(tree, tmp_path / "tree")


@pytest.fixture(scope="module")
def uninterrupted(tree, tmp_path_factory) -> Path:
    """Convert `tree` with one worker and without an interruption, and return the folder."""
    out = tmp_path_factory.mktemp("uninterrupted")
    converted(tree, out, workers=1)
    return out


@pytest.fixture
def small_cifar(monkeypatch) -> Callable[[int], None]:
    """Return a function that makes the reader accept the image counts of a CIFAR miniature."""
    return lambda classes: monkeypatch.setattr(cifar, "_EXPECTED", miniatures.cifar_counts(classes))


@pytest.fixture
def small_fashion_mnist(tmp_path, monkeypatch) -> Path:
    """Write a Fashion-MNIST miniature that the reader accepts, and return its folder."""
    monkeypatch.setattr(fashion_mnist, "_EXPECTED", miniatures.FASHION_MNIST_COUNTS)
    miniatures.write_fashion_mnist(tmp_path)
    return tmp_path


@pytest.fixture
def root(tmp_path) -> Path:
    """Write all files of `tests.data.twelve_classes.image_set`, and return their folder."""
    write_files(tmp_path)
    return tmp_path
