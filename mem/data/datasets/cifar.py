"""Reader for CIFAR-10-LT and CIFAR-100-LT. Reduces the training splits of CIFAR (Krizhevsky 2009) to a long tail.

The archive formats are described at https://www.cs.toronto.edu/~kriz/cifar.html.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64, UInt8

from mem.config import Cifar10, Cifar100
from mem.data.datasets.archives import Archive, open_archive
from mem.data.datasets.base import ImageSet, ImageSplit, empty_split
from mem.data.datasets.index_files import require_distinct_names
from mem.data.datasets.pickles import load_pickle
from mem.data.datasets.reference_counts import CIFAR, CIFAR_LT, ReferenceCounts
from mem.data.datasets.splits import cut_train
from mem.errors import UserError

PIXELS = 3 * 32 * 32
_EXPECTED = {"train": CIFAR[10].train, "test": CIFAR[10].test}
"""Number of images in each split, which is the same for CIFAR-10 and CIFAR-100."""


@dataclass(frozen=True)
class ArchiveFormat:
    """An archive format in which CIFAR is published."""

    folder: str
    """Name of the unpacked folder."""
    archive: str
    """File name of the archive."""
    train: tuple[str, ...]
    test: tuple[str, ...]
    names: str
    """Name of the file with the class names."""
    pickled: bool
    """Whether the files are Python pickles instead of binary records."""


_BATCHES = tuple(f"data_batch_{i}" for i in range(1, 6))
ARCHIVE_FORMATS: Mapping[int, tuple[ArchiveFormat, ArchiveFormat]] = {
    10: (
        ArchiveFormat("cifar-10-batches-py", "cifar-10-python.tar.gz", _BATCHES, ("test_batch",), "batches.meta", True),
        ArchiveFormat(
            "cifar-10-batches-bin",
            "cifar-10-binary.tar.gz",
            tuple(f"{name}.bin" for name in _BATCHES),
            ("test_batch.bin",),
            "batches.meta.txt",
            False,
        ),
    ),
    100: (
        ArchiveFormat("cifar-100-python", "cifar-100-python.tar.gz", ("train",), ("test",), "meta", True),
        ArchiveFormat(
            "cifar-100-binary", "cifar-100-binary.tar.gz", ("train.bin",), ("test.bin",), "fine_label_names.txt", False
        ),
    ),
}

Part = tuple[UInt8[np.ndarray, "images 3072"], Int64[np.ndarray, " images"]]
"""Pixels (red, green and blue planes, each stored row by row) and labels."""


def read_cifar(settings: Cifar10 | Cifar100, order: int) -> ImageSet:
    """Read CIFAR and reduce its 50,000 training images to a long tail. The official test split is used unchanged.

    Raises:
        UserError: The archive is missing, incomplete or not a CIFAR archive, or a class has too few images.
    """
    classes = settings.CLASSES
    form, archive = _open(settings.root, classes)
    names = _class_names(form, archive, classes)
    splits = {
        split: _split(_read(form, archive, files, classes, _EXPECTED[split]), f"cifar-{classes}/{split}")
        for split, files in (("train", form.train), ("test", form.test))
    }
    complete = ImageSet(names, splits["train"], empty_split(), splits["test"], _reference(settings))
    return cut_train(complete, settings.cut, order)


def _reference(settings: Cifar10 | Cifar100) -> ReferenceCounts | None:
    """Return the published counts if the settings reduce all training images by the standard rule, else None."""
    cut = settings.cut
    per_class = _EXPECTED["train"] // settings.CLASSES
    if cut.imbalance is None or (cut.largest or per_class - cut.val_per_class) != per_class:
        return None
    return CIFAR_LT.get((settings.CLASSES, cut.imbalance))


def _open(root: str, classes: int) -> tuple[ArchiveFormat, Archive]:
    forms = ARCHIVE_FORMATS[classes]
    for form in forms:
        wanted = (*form.train, *form.test, form.names)
        if archive := open_archive(root, form.folder, form.archive, wanted):
            return form, archive
    python, binary = forms
    raise UserError(
        f"{root}: CIFAR-{classes} was not found. Expected {python.archive} or the folder {python.folder}, or "
        f"{binary.archive} or the folder {binary.folder}.\n"
        f"Download https://www.cs.toronto.edu/~kriz/{python.archive} and set dataset.root in the study to the archive "
        "or to the folder that contains it. You do not need to unpack it."
    )


def _class_names(form: ArchiveFormat, archive: Archive, classes: int) -> tuple[str, ...]:
    content, origin = archive.read(form.names), archive.path(form.names)
    if form.pickled:
        meta = load_pickle(content, origin)
        found = meta.get("fine_label_names" if classes == 100 else "label_names") if isinstance(meta, dict) else None
        names = [name for name in found if isinstance(name, str)] if isinstance(found, list) else []
    else:
        names = content.decode("ascii", "replace").split()
    if len(names) != classes:
        raise UserError(
            f"{origin}: lists {len(names)} class names, expected {classes}. Download CIFAR-{classes} again."
        )
    require_distinct_names(names, origin)
    return tuple(names)


def _read(form: ArchiveFormat, archive: Archive, files: tuple[str, ...], classes: int, expected: int) -> Part:
    """Read and concatenate the files of a split, and check that they contain `expected` images."""
    load = _from_pickle if form.pickled else _from_records
    parts = [load(archive.read(name), archive.path(name), classes) for name in files]
    pixels, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    where = archive.path(files[0] if len(files) == 1 else f"{files[0]} to {files[-1]}")
    if len(labels) != expected:
        raise UserError(
            f"{where}: has {len(labels):,} images, but CIFAR-{classes} has {expected:,}. The files are incomplete or "
            "from a different dataset. Download the archive again."
        )
    if labels.min() < 0 or labels.max() >= classes:
        raise UserError(
            f"{where}: labels range from {labels.min()} to {labels.max()}, expected 0 to {classes - 1}. Download "
            f"CIFAR-{classes} again."
        )
    return pixels, labels


def _from_pickle(content: bytes, origin: str, classes: int) -> Part:
    batch = load_pickle(content, origin)
    key = "fine_labels" if classes == 100 else "labels"
    if not isinstance(batch, dict) or not {"data", key} <= batch.keys():
        raise UserError(f"{origin}: not a batch of CIFAR-{classes}; expected a dictionary with `data` and `{key}`")
    pixels, labels = batch["data"], batch[key]
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape[1:] != (PIXELS,):
        raise UserError(f"{origin}: `data` must be an array of bytes of shape (images, {PIXELS})")
    if not isinstance(labels, list) or len(labels) != len(pixels) or not all(type(k) is int for k in labels):
        raise UserError(f"{origin}: `{key}` must be a list of {len(pixels):,} integers, one per image")
    return pixels, np.asarray(labels, dtype=np.int64)


def _from_records(content: bytes, origin: str, classes: int) -> Part:
    """Parse records, each with one label byte (CIFAR-100: a coarse and a fine label) and 3072 bytes of pixels."""
    size = PIXELS + (2 if classes == 100 else 1)
    if len(content) % size:
        raise UserError(
            f"{origin}: the file is incomplete: {len(content):,} bytes are not a multiple of the record size, {size} "
            "bytes. Download it again."
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, size)
    return records[:, -PIXELS:], records[:, -PIXELS - 1].astype(np.int64)


def _split(part: Part, name: str) -> ImageSplit:
    pixels, labels = part
    read: Callable[[int], np.ndarray] = lambda i: np.ascontiguousarray(pixels[i].reshape(3, 32, 32).transpose(1, 2, 0))  # noqa: E731
    return ImageSplit(labels, tuple(f"{name}/{i}" for i in range(len(labels))), read)
