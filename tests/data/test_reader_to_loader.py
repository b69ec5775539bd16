"""Each data set's miniature, in its true form on disk, through reader, check, conversion and loader."""

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
from tests.data.miniatures import MINIATURES
from tests.data.test_datasets import fashion, write_fashion_mnist

BATCH = 16
SIDE = 24


def cifar_of(classes: int, binary: bool = False, packed: bool = True) -> Callable[[Path], dict[str, Any]]:
    return lambda folder: miniatures.cifar(folder, classes, binary, packed)


SETS = MINIATURES | {"cifar10": cifar_of(10), "cifar100, binary and unpacked": cifar_of(100, binary=True, packed=False)}


def goes_through(images: ImageSet, settings: Any, out: Path) -> None:
    """Check, convert and load an image set; what comes out is what was read."""
    findings = check(images, deep=True)
    assert findings.of(Severity.WRONG) == [], findings.lines()
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
        np.testing.assert_array_equal(written, expected)  # miniatures are stored raw
    augmentation = Augmentation(crop_scale=(0.3, 1.0), flip=True)
    data = TrainingImages(train, InstanceSampler(len(train), 0), BATCH, SIDE, augmentation, 0, 2)
    batches = list(data.from_step(0, 3))
    assert [tuple(batch.inputs.shape) for batch in batches] == [(BATCH, SIDE, SIDE, 3)] * 3
    expected = images.train.labels[InstanceSampler(len(train), 0).indices(0, 3 * BATCH)]
    np.testing.assert_array_equal(np.concatenate([batch.labels.numpy() for batch in batches]), expected)


@pytest.mark.parametrize("name", SETS)
def test_a_miniature_goes_all_the_way_to_the_loader(name, tmp_path, monkeypatch):
    if name.startswith("cifar"):
        monkeypatch.setattr(cifar, "_EXPECTED", miniatures.cifar_totals(100 if "100" in name else 10))
    settings = miniatures.settings(SETS[name](tmp_path))
    goes_through(read_dataset(settings, 0), settings, tmp_path / "out")


def test_fashion_mnist_goes_all_the_way_to_the_loader(tmp_path, monkeypatch):
    monkeypatch.setattr("mem.data.datasets.fashion_mnist._EXPECTED", {"train": 40, "t10k": 20})
    write_fashion_mnist(tmp_path)
    settings = fashion(tmp_path)
    goes_through(read_dataset(settings, 0), settings, tmp_path / "out")
