"""Every dataset miniature passes through reader, check, conversion and data loader."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mem.config import Augmentation
from mem.data.beton.reader import Beton
from mem.data.check.check import check
from mem.data.check.findings import Severity
from mem.data.codecs import decode
from mem.data.convert.convert import convert
from mem.data.datasets import cifar, read_dataset
from mem.data.datasets.base import ImageSet
from mem.data.loading.images import TrainingImages, plain_batches
from mem.data.loading.samplers import InstanceSampler
from tests.data import miniatures
from tests.data.font_files import write_families
from tests.data.miniatures import MINIATURES, glyphs

pytestmark = pytest.mark.stage

BATCH = 16
SIDE = 24


def cifar_miniature(classes: int, binary: bool = False, packed: bool = True) -> Callable[[Path], dict[str, Any]]:
    return lambda folder: miniatures.cifar(folder, classes, binary, packed)


SETS = MINIATURES | {
    "glyphs": lambda folder: glyphs(write_families(folder / "fonts")),
    "cifar10": cifar_miniature(10),
    "cifar100, binary and unpacked": cifar_miniature(100, binary=True, packed=False),
}


def check_convert_and_load(images: ImageSet, settings: Any, out: Path) -> None:
    """Check, convert and load an image set, and compare the loaded images with the source images."""
    findings = check(images, deep=True)
    assert findings.of(Severity.ERROR) == [], findings.lines()
    out.mkdir()
    manifest = convert(images, settings, out, 2, lambda text: None)
    for name, split in images.splits.items():
        beton = Beton(out / f"{name}.beton")
        np.testing.assert_array_equal(beton.labels, split.labels)
        assert manifest["splits"][name]["images"] == len(split)
        seen = [batch.labels.numpy() for batch in plain_batches(beton, np.arange(len(beton)), BATCH, SIDE, 1.0, 2)]
        np.testing.assert_array_equal(np.concatenate([np.empty(0, np.int64), *seen]), split.labels)
    train = Beton(out / "train.beton")
    for i in range(0, len(train), 5):
        content = images.train.read(i)
        expected = decode.decode(content) if isinstance(content, bytes) else content
        written = np.zeros((int(train.heights[i]), int(train.widths[i]), 3), dtype=np.uint8)
        train.crop(i, 0, 0, *written.shape[:2], written)
        np.testing.assert_array_equal(written, expected)  # miniatures are stored as raw pixels
    augmentation = Augmentation(crop_scale=(0.3, 1.0), flip=True)
    data = TrainingImages(train, InstanceSampler(len(train), 0), BATCH, SIDE, augmentation, 0, 2)
    batches = list(data.from_step(0, 3))
    assert [tuple(batch.inputs.shape) for batch in batches] == [(BATCH, SIDE, SIDE, 3)] * 3
    expected = images.train.labels[InstanceSampler(len(train), 0).indices(0, 3 * BATCH)]
    np.testing.assert_array_equal(np.concatenate([batch.labels.numpy() for batch in batches]), expected)


@pytest.mark.parametrize("name", SETS)
def test_a_loaded_miniature_has_the_images_that_were_read(name, tmp_path, monkeypatch):
    if name.startswith("cifar"):
        monkeypatch.setattr(cifar, "_EXPECTED", miniatures.cifar_counts(100 if "100" in name else 10))
    settings = miniatures.settings(SETS[name](tmp_path))
    check_convert_and_load(read_dataset(settings, 0), settings, tmp_path / "out")


def test_loaded_fashion_mnist_has_the_images_that_were_read(small_fashion_mnist, tmp_path):
    settings = miniatures.settings(miniatures.fashion_mnist(small_fashion_mnist))
    check_convert_and_load(read_dataset(settings, 0), settings, tmp_path / "out")
