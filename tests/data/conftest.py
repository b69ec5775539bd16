"""A tree of pictures, what a conversion makes of it that nothing disturbs, and the files of a data set to check."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from mem.data.datasets import cifar
from tests.data import miniatures
from tests.data.conversions import CLASSES, COUNTS, converted, photo
from tests.data.twelve_classes import write_files


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """A folder per class in a folder per split; JPEG files of quality 95."""
    root = tmp_path_factory.mktemp("tree")
    for s, (split, count) in enumerate(COUNTS.items()):
        for i in range(count):
            folder = root / split / f"class{i % CLASSES}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(photo(1000 * s + i)).save(folder / f"{i:04d}.jpg", quality=95)
    return root


@pytest.fixture
def own_tree(tree, tmp_path) -> Path:
    """A copy whose files may be spoiled."""
    subprocess.run(["cp", "-r", str(tree), str(tmp_path / "tree")], check=True)
    return tmp_path / "tree"


@pytest.fixture(scope="module")
def unbroken(tree, tmp_path_factory) -> Path:
    """What an unbroken conversion by one worker makes of the tree."""
    out = tmp_path_factory.mktemp("unbroken")
    converted(tree, out, workers=1)
    return out


@pytest.fixture
def small_cifar(monkeypatch) -> Callable[[int], None]:
    """Let the reader expect the miniature's totals."""
    return lambda classes: monkeypatch.setattr(cifar, "_EXPECTED", miniatures.cifar_totals(classes))


@pytest.fixture
def root(tmp_path) -> Path:
    """The files of `tests.data.twelve_classes.image_set`, whole."""
    write_files(tmp_path)
    return tmp_path
