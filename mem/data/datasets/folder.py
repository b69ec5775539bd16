"""A tree with a folder per class."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mem.config import Folder
from mem.data.datasets import labels
from mem.data.datasets.base import ImageSet, ImageSplit, empty_split, split_of_files
from mem.data.datasets.index_files import read_names
from mem.data.datasets.problems import Problems, printable
from mem.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".jp2")
"""Files that end otherwise are no images; capitals do not matter."""


def read_folder(settings: Folder) -> ImageSet:
    """Find the images of each split. Folders may be nested below a class's; hidden files and folders are passed over.

    Raises:
        UserError: A folder is missing or has no images, or a class of `class_names` has no folder, or the other way.
    """
    root = Path(settings.root).expanduser()
    if not root.is_dir():
        raise UserError(f"dataset.root: {root}: no such folder")
    folders = {"train": settings.train_folder, "val": settings.val_folder, "test": settings.test_folder}
    found = {split: _ClassFolders(root, name) for split, name in folders.items() if name is not None}
    if settings.class_names is not None:
        classes = read_names(Path(settings.class_names).expanduser())
    else:
        classes = tuple(labels.natural_sort(list(found["train"].classes)))
    faults = Problems(str(root))
    for split, tree in found.items():
        for name in sorted(tree.classes - set(classes)):
            known = "class_names" if settings.class_names else "the training split"
            faults.add(f"folders of classes in {split} that are none in {known}", f"{tree.start}{name}")
    for name in classes:
        if name not in found["train"].classes:
            faults.add("classes without a folder of training images", name)
    faults.raise_if_any()
    splits = {split: tree.split(classes) for split, tree in found.items()}
    labels.check_classes({split: data.labels for split, data in splits.items()}, len(classes), str(root), classes)
    notes = tuple(note for tree in found.values() if (note := tree.note()))
    empty = empty_split()
    return ImageSet(classes, splits["train"], splits.get("val", empty), splits.get("test", empty), notes=notes)


class _ClassFolders:
    """The class folders of one split."""

    def __init__(self, root: Path, name: str) -> None:
        self.root = root
        self.folder = root / name
        if not self.folder.is_dir():
            raise UserError(f"{self.folder}: no such folder; the study names it as a split of {root}")
        self.start = "" if self.folder == root else f"{self.folder.relative_to(root)}/"
        with os.scandir(self.folder) as entries:
            self.classes = {entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")}
        if not self.classes:
            raise UserError(f"{self.folder}: has no folders; expected one for each class, with its images")
        self._left: list[str] = []

    def split(self, classes: tuple[str, ...]) -> ImageSplit:
        """The images, class by class, in the order of their names."""
        paths: list[str] = []
        numbers: list[np.ndarray] = []
        for k, name in enumerate(classes):
            images = sorted(self._images(f"{self.start}{name}")) if name in self.classes else []
            paths += images
            numbers.append(np.full(len(images), k, dtype=np.int64))
        return split_of_files(str(self.root), paths, paths, np.concatenate(numbers))

    def _images(self, below: str) -> Iterator[str]:
        """Paths of images under a folder, relative to the root.

        Links to folders are not followed: they may lead in circles.
        """
        with os.scandir(self.root / below) as entries:
            for entry in entries:
                path = f"{below}/{entry.name}"
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    yield from self._images(path)
                elif entry.name.lower().endswith(SUFFIXES):
                    yield path
                else:
                    self._left.append(path)

    def note(self) -> str:
        """What was passed over, if anything."""
        if not self._left:
            return ""
        first = ", ".join(printable(path) for path in sorted(self._left)[:3])
        return f"{self.folder}: {len(self._left):,} files are no images by their names and were left out ({first})"
