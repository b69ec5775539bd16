"""Write Fashion-MNIST as a folder of PNG files, one folder per split and class.

    python docs/tutorial/fashion_folder.py data/fashion_folder

By default, the training split has a long tail (500 to 5 images per class), as the pictures of many applications have.
`--train-per-class 600` writes a balanced pool of training images instead, which `dataset.cut` reduces to a long tail
with a different class order for each of a study's `orders`. The images are the first ones of each class in the order of
the files, so that the same arguments always write the same folder.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from mem.data.datasets.fashion_mnist import CLASSES, find_folder, read_idx

LONG_TAIL = (500, 300, 180, 108, 64, 39, 23, 14, 8, 5)
"""Training images per class: four many-shot, three medium-shot and three few-shot classes; imbalance factor 100."""


def main() -> None:
    """Write the folder."""
    arguments = parse_arguments()
    source = find_folder(arguments.source)
    train, test = read_split(source, "train"), read_split(source, "t10k")
    counts = LONG_TAIL if arguments.train_per_class is None else (arguments.train_per_class,) * len(CLASSES)
    for label, name in enumerate(CLASSES):
        folder_name = name.replace("/", "-")  # a folder name must not contain the slash of "T-shirt/top"
        first, then = np.split(train[label], [counts[label]])
        write(first, counts[label], arguments.folder / "train" / folder_name)
        write(then, arguments.val_per_class, arguments.folder / "val" / folder_name)
        write(test[label], arguments.test_per_class, arguments.folder / "test" / folder_name)
    print(f"{arguments.folder}: {', '.join(str(count) for count in counts)} training images in {len(CLASSES)} classes")


def read_split(source: Path, prefix: str) -> list[np.ndarray]:
    """Return the images of each class of a split, of shape (images, rows, columns), in the order of the file."""
    images, labels = (read_idx(file_of(source, f"{prefix}-{kind}")) for kind in ("images-idx3", "labels-idx1"))
    return [images[labels == label] for label in range(len(CLASSES))]


def file_of(source: Path, name: str) -> Path:
    """Return the compressed or uncompressed IDX file with this name."""
    plain = source / f"{name}-ubyte"
    return plain if plain.is_file() else plain.with_name(f"{plain.name}.gz")


def write(images: np.ndarray, count: int, folder: Path) -> None:
    """Write the first `count` images as PNG files.

    Raises:
        SystemExit: The class has fewer images, or the folder already contains files.
    """
    if count > len(images):
        raise SystemExit(f"{folder}: only {len(images)} images of this class are left, but {count} are requested")
    if folder.is_dir() and any(folder.iterdir()):
        raise SystemExit(f"{folder} already contains files. Delete the folder, or write to another one.")
    folder.mkdir(parents=True, exist_ok=True)
    for number, pixels in enumerate(images[:count]):
        Image.fromarray(pixels).save(folder / f"{number:04}.png")


def parse_arguments() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description="Write Fashion-MNIST as a folder of PNG files.")
    parser.add_argument("folder", type=Path, help="folder to create")
    parser.add_argument("--source", help="folder of the four IDX files (default: that of the Debian package)")
    parser.add_argument("--train-per-class", type=int, help="training images of every class (default: a long tail)")
    parser.add_argument("--val-per-class", type=int, default=50, help="validation images of every class")
    parser.add_argument("--test-per-class", type=int, default=200, help="test images of every class")
    return parser.parse_args()


if __name__ == "__main__":
    main()
