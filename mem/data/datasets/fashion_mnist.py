"""Reader for Fashion-MNIST-LT: Fashion-MNIST (Xiao et al. 2017) with its training split reduced to a long tail."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from mem import longtail
from mem.config import FashionMnist
from mem.data.datasets.archives import read_bounded
from mem.data.datasets.base import ImageSet, ImageSplit, gray_to_rgb
from mem.data.datasets.reference_counts import FASHION_MNIST
from mem.errors import UserError

CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
"""Folder in which the Debian package `dataset-fashion-mnist` installs the files."""
_EXPECTED = {"train": FASHION_MNIST.train, "t10k": FASHION_MNIST.test}
"""Number of images in each split, by file name prefix."""


def read_fashion_mnist(settings: FashionMnist, order: int) -> ImageSet:
    """Read Fashion-MNIST and reduce its 60,000 training images to a long tail.

    The official test split is used unchanged.

    Raises:
        UserError: The files are missing, incomplete or not IDX files, or a class has too few images.
    """
    folder = find_folder(settings.root)
    train_images, train_labels = _read_pair(folder, "train")
    test_images, test_labels = _read_pair(folder, "t10k")
    kept = longtail.cut_to_tail(train_labels, len(CLASSES), settings.cut, order)

    def split(images: np.ndarray, labels: np.ndarray, positions: np.ndarray, part: str) -> ImageSplit:
        return ImageSplit(
            labels=labels[positions],
            names=tuple(f"fashion-mnist/{part}/{i}" for i in positions),
            read=lambda i: gray_to_rgb(images[positions[i]]),
        )

    return ImageSet(
        CLASSES,
        split(train_images, train_labels, kept.train, "train"),
        split(train_images, train_labels, kept.rest, "train"),
        split(test_images, test_labels, np.arange(len(test_labels)), "t10k"),
    )


def find_folder(root: str | None) -> Path:
    """Find the folder that contains the four files.

    Searches below `root` if it is given, else the Debian package's folder and then `data/FashionMNIST/raw`.

    Raises:
        UserError: No searched folder contains all four files.
    """
    if root is not None:
        given = Path(root).expanduser()
        candidates = [given, given / "FashionMNIST" / "raw", given / "raw"]
    else:
        candidates = [DEBIAN, Path("data/FashionMNIST/raw")]
    for folder in candidates:
        if all(_find_file(folder, name) for name in FILES):
            return folder
    searched = "\n".join(f"  {folder}: {_describe(folder)}" for folder in candidates)
    raise UserError(
        f"Fashion-MNIST was not found. Expected {', '.join(FILES)} (with or without .gz) in one of:\n{searched}\n"
        "Install the Debian package (apt install dataset-fashion-mnist), or download the four files and set\n"
        "dataset.root in the study to their folder. torchvision's download folder works too."
    )


def _describe(folder: Path) -> str:
    if not folder.is_dir():
        return "no such folder"
    missing = [name for name in FILES if not _find_file(folder, name)]
    return f"missing {', '.join(missing)}" if len(missing) < len(FILES) else "none of the files"


def _find_file(folder: Path, name: str) -> Path | None:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    return None


def _read_pair(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    images = read_idx(_path(folder, f"{part}-images-idx3-ubyte"))
    labels = read_idx(_path(folder, f"{part}-labels-idx1-ubyte")).astype(np.int64)
    expected = (_EXPECTED[part], 28, 28)
    if images.shape != expected or labels.shape != expected[:1]:
        raise UserError(
            f"{folder}: the {part} files contain images of shape {images.shape} and labels of shape {labels.shape}; "
            f"expected {expected} and {expected[:1]}. Download its files again."
        )
    if labels.max() >= len(CLASSES):
        raise UserError(
            f"{folder}: the largest {part} label is {labels.max()}; expected labels from 0 to 9. Download them again."
        )
    return images, labels


def _path(folder: Path, name: str) -> Path:
    path = _find_file(folder, name)
    if path is None:
        raise UserError(f"{folder}: {name} was removed during reading")
    return path


def read_idx(path: Path) -> UInt8[np.ndarray, ...]:
    """Read a uint8 array from an IDX file, which may be gzipped.

    Source: LeCun's MNIST page. A file consists of two zero bytes, a type byte (8 for unsigned bytes), the number of
    dimensions, each dimension as a big-endian 32-bit integer, and the data.

    Raises:
        UserError: The file is truncated or not an IDX file of unsigned bytes.
    """
    try:
        data = read_bounded(path)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read: {error}. The file may be truncated. Download it again.") from None
    if len(data) < 4 or data[:3] != b"\x00\x00\x08":
        raise UserError(f"{path}: not an IDX file of unsigned bytes: it starts with {data[:4].hex() or 'nothing'}")
    dimensions = data[3]
    start = 4 + 4 * dimensions
    if len(data) < start:
        raise UserError(f"{path}: the header is truncated after {len(data)} bytes. Download it again.")
    shape = struct.unpack(f">{dimensions}I", data[4:start])
    expected = start + int(np.prod(shape, dtype=np.int64))
    if len(data) != expected:
        raise UserError(
            f"{path}: has {len(data)} bytes, but its header specifies {expected}. The file is incomplete. Download it "
            "again."
        )
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)
