"""Reader for user-provided images in one folder per class."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mem.config import Folder
from mem.data.codecs.suffixes import is_image_name
from mem.data.datasets.base import ImageSet, ImageSplit, empty_split, split_of_files
from mem.data.datasets.class_names import given_classes
from mem.data.datasets.labels import count_classes, natural_sort
from mem.data.datasets.problems import Problems, printable
from mem.data.datasets.spellings import composed, distinct_names
from mem.errors import UserError


def read_folder(settings: Folder) -> ImageSet:
    """Read the images in the class folders of each split, including subfolders. Hidden files and folders are skipped.

    Raises:
        UserError: A folder is missing or contains no images, or the class folders do not match the class names.
    """
    root = Path(settings.root).expanduser()
    if not root.is_dir():
        raise UserError(f"dataset.root: {root}: no such folder")
    folders = {"train": settings.train_folder, "val": settings.val_folder, "test": settings.test_folder}
    trees = {split: _ClassFolders(root, name) for split, name in folders.items() if name is not None}
    given = given_classes(settings)
    if given is not None:
        classes = given
    else:
        classes = tuple(natural_sort(distinct_names(trees["train"].names())))
    problems = Problems(str(root))
    known = {composed(name) for name in classes}
    for split, tree in trees.items():
        for name in sorted(name for name in tree.names() if composed(name) not in known):
            expected = "class_names" if given is not None else "the training split"
            problems.add(f"class folders in {split} that are not in {expected}", f"{tree.prefix}{name}")
    for name in classes:
        if not trees["train"].folders_of(name):
            problems.add("classes without a folder of training images", name)
    problems.raise_if_any()
    splits = {split: tree.split(classes) for split, tree in trees.items()}
    count_classes({split: data.labels for split, data in splits.items()}, len(classes), str(root), classes)
    notes = tuple(note for tree in trees.values() for note in tree.notes())
    empty = empty_split()
    return ImageSet(classes, splits["train"], splits.get("val", empty), splits.get("test", empty), notes=notes)


class _ClassFolders:
    """Class folders of one split."""

    def __init__(self, root: Path, name: str) -> None:
        self.root = root
        self.folder = root / name
        if not self.folder.is_dir():
            raise UserError(f"{self.folder}: no such folder, but the study specifies it as a split of {root}")
        self.prefix = "" if self.folder == root else f"{self.folder.relative_to(root)}/"
        self._folders: dict[str, list[str]] = {}
        with os.scandir(self.folder) as entries:
            for name in sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")):
                self._folders.setdefault(composed(name), []).append(name)
        if not self._folders:
            raise UserError(f"{self.folder}: the folder has no subfolders. Expected one folder of images per class.")
        self._left_out: list[str] = []

    def names(self) -> list[str]:
        """Return the names of all class folders."""
        return [name for names in self._folders.values() for name in names]

    def folders_of(self, name: str) -> list[str]:
        """Return the names of a class's folders. There are several only if they are spelled in two Unicode forms."""
        return self._folders.get(composed(name), [])

    def split(self, classes: tuple[str, ...]) -> ImageSplit:
        """Return the split, with images ordered by class and then by path."""
        paths: list[str] = []
        labels: list[np.ndarray] = []
        for k, name in enumerate(classes):
            images = sorted(path for folder in self.folders_of(name) for path in self._images(f"{self.prefix}{folder}"))
            paths += images
            labels.append(np.full(len(images), k, dtype=np.int64))
        return split_of_files(str(self.root), paths, paths, np.concatenate(labels))

    def _images(self, folder: str) -> Iterator[str]:
        """Yield the paths of the images below a folder, relative to the root.

        Symbolic links to folders are not followed, because they may form cycles.
        """
        with os.scandir(self.root / folder) as entries:
            for entry in entries:
                path = f"{folder}/{entry.name}"
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    yield from self._images(path)
                elif is_image_name(entry.name):
                    yield path
                else:
                    self._left_out.append(path)

    def notes(self) -> Iterator[str]:
        """Yield messages about class folders in two Unicode forms and about skipped files."""
        if spelled := [name for name, names in self._folders.items() if len(names) > 1]:
            listed = ", ".join(map(printable, sorted(spelled)))
            yield f"{self.folder}: class folders in two Unicode forms (NFC and NFD) are one class: {listed}"
        if not self._left_out:
            return
        count = len(self._left_out)
        examples = ", ".join(printable(path) for path in sorted(self._left_out)[:3])
        files, were = ("file", "was") if count == 1 else ("files", "were")
        yield f"{self.folder}: {count:,} {files} without a supported image suffix {were} skipped ({examples})"
