"""CIFAR-10-LT and CIFAR-100-LT: the official archives (Krizhevsky 2009), cut to a long tail.

Source of both formats: https://www.cs.toronto.edu/~kriz/cifar.html.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64, UInt8

from mem.config import Cifar10, Cifar100
from mem.data.datasets.archives import Archive, open_archive
from mem.data.datasets.base import ImageSet, ImageSplit, empty_split
from mem.data.datasets.index_files import distinct_names
from mem.data.datasets.pickles import load_pickle
from mem.data.datasets.reference_counts import CIFAR_LT, ReferenceCounts
from mem.data.datasets.splits import cut_train
from mem.errors import UserError

PIXELS = 3 * 32 * 32
_EXPECTED = {"train": 50_000, "test": 10_000}


@dataclass(frozen=True)
class Version:
    """One of the forms in which a data set is published."""

    folder: str
    """Folder in the archive."""
    archive: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    names: str
    """File with the names of the classes."""
    pickled: bool


_BATCHES = tuple(f"data_batch_{i}" for i in range(1, 6))
VERSIONS: Mapping[int, tuple[Version, Version]] = {
    10: (
        Version("cifar-10-batches-py", "cifar-10-python.tar.gz", _BATCHES, ("test_batch",), "batches.meta", True),
        Version(
            "cifar-10-batches-bin",
            "cifar-10-binary.tar.gz",
            tuple(f"{name}.bin" for name in _BATCHES),
            ("test_batch.bin",),
            "batches.meta.txt",
            False,
        ),
    ),
    100: (
        Version("cifar-100-python", "cifar-100-python.tar.gz", ("train",), ("test",), "meta", True),
        Version(
            "cifar-100-binary", "cifar-100-binary.tar.gz", ("train.bin",), ("test.bin",), "fine_label_names.txt", False
        ),
    ),
}

Part = tuple[UInt8[np.ndarray, "images 3072"], Int64[np.ndarray, " images"]]
"""Pixels, as a red, a green and a blue plane, row by row; labels."""


def read_cifar(settings: Cifar10 | Cifar100, order: int) -> ImageSet:
    """Cut the 50,000 training images; the test split is the official one, as it is.

    Raises:
        UserError: The archive is missing, incomplete or another, or a class has too few images.
    """
    classes = settings.CLASSES
    version, archive = _find(settings.root, classes)
    names = _class_names(version, archive, classes)
    splits = {
        split: _split(_read(version, archive, files, classes, _EXPECTED[split]), f"cifar-{classes}/{split}")
        for split, files in (("train", version.train), ("test", version.test))
    }
    whole = ImageSet(names, splits["train"], empty_split(), splits["test"], _facts(settings))
    return cut_train(whole, settings.cut, order)


def _facts(settings: Cifar10 | Cifar100) -> ReferenceCounts | None:
    """The field's totals, where the cut is the field's."""
    cut = settings.cut
    if cut.imbalance is None or (cut.largest or _EXPECTED["train"] // settings.CLASSES - cut.val_per_class) != (
        _EXPECTED["train"] // settings.CLASSES
    ):
        return None
    return CIFAR_LT.get((settings.CLASSES, cut.imbalance))


def _find(root: str, classes: int) -> tuple[Version, Archive]:
    versions = VERSIONS[classes]
    for version in versions:
        wanted = (*version.train, *version.test, version.names)
        if archive := open_archive(root, version.folder, version.archive, wanted):
            return version, archive
    python, binary = versions
    raise UserError(
        f"CIFAR-{classes} was not found at {root}. Looked there for {python.archive} or its folder {python.folder}, "
        f"then for {binary.archive} or its folder {binary.folder}.\n"
        f"Download https://www.cs.toronto.edu/~kriz/{python.archive} and set dataset.root in the study to the archive "
        "or to its folder; it need not be unpacked."
    )


def _class_names(version: Version, archive: Archive, classes: int) -> tuple[str, ...]:
    content, origin = archive.read(version.names), archive.where(version.names)
    if version.pickled:
        meta = load_pickle(content, origin)
        found = meta.get("fine_label_names" if classes == 100 else "label_names") if isinstance(meta, dict) else None
        names = [name for name in found if isinstance(name, str)] if isinstance(found, list) else []
    else:
        names = content.decode("ascii", "replace").split()
    if len(names) != classes:
        raise UserError(f"{origin}: names {len(names)} classes, CIFAR-{classes} has {classes}: this is another file")
    distinct_names(names, origin)
    return tuple(names)


def _read(version: Version, archive: Archive, files: tuple[str, ...], classes: int, expected: int) -> Part:
    load = _from_pickle if version.pickled else _from_records
    parts = [load(archive.read(name), archive.where(name), classes) for name in files]
    pixels, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    where = archive.where(files[0] if len(files) == 1 else f"{files[0]} to {files[-1]}")
    if len(labels) != expected:
        raise UserError(f"{where}: {len(labels):,} images, CIFAR-{classes} has {expected:,}: other files, or a part")
    if labels.min() < 0 or labels.max() >= classes:
        raise UserError(f"{where}: labels go from {labels.min()} to {labels.max()}, expected 0 to {classes - 1}")
    return pixels, labels


def _from_pickle(content: bytes, origin: str, classes: int) -> Part:
    batch = load_pickle(content, origin)
    key = "fine_labels" if classes == 100 else "labels"
    if not isinstance(batch, dict) or not {"data", key} <= batch.keys():
        raise UserError(f"{origin}: expected a dictionary with `data` and `{key}`: this is another file")
    pixels, labels = batch["data"], batch[key]
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape[1:] != (PIXELS,):
        raise UserError(f"{origin}: `data` is no array of bytes of shape (images, {PIXELS})")
    if not isinstance(labels, list) or len(labels) != len(pixels) or not all(type(k) is int for k in labels):
        raise UserError(f"{origin}: `{key}` is no list of a whole number for each of the {len(pixels):,} images")
    return pixels, np.asarray(labels, dtype=np.int64)


def _from_records(content: bytes, origin: str, classes: int) -> Part:
    """Records of one label byte, or of a coarse and a fine one, and 3072 bytes of pixels."""
    size = PIXELS + (2 if classes == 100 else 1)
    if len(content) % size:
        raise UserError(f"{origin}: {len(content):,} bytes are no whole number of records of {size}: it is incomplete")
    records = np.frombuffer(content, np.uint8).reshape(-1, size)
    return records[:, -PIXELS:], records[:, -PIXELS - 1].astype(np.int64)


def _split(part: Part, name: str) -> ImageSplit:
    pixels, labels = part
    read: Callable[[int], np.ndarray] = lambda i: np.ascontiguousarray(pixels[i].reshape(3, 32, 32).transpose(1, 2, 0))  # noqa: E731
    return ImageSplit(labels, tuple(f"{name}/{i}" for i in range(len(labels))), read)
