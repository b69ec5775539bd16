"""Find out how a folder or lists of pictures are organised, and check that a study can be made of them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mem.config import Folder, Lists
from mem.data.beton.encoding import Encoding, encode
from mem.data.codecs.decode import Unreadable
from mem.data.codecs.suffixes import IMAGE_SUFFIXES, is_image_name
from mem.data.datasets import ImageSet, read_dataset
from mem.data.datasets.index_files import SEPARATORS, read_text
from mem.data.datasets.problems import printable
from mem.errors import UserError, first_of

CHECK_SECONDS = 10.0
"""Time limit for decoding pictures. A larger dataset is sampled; `mem data check --deep` decodes all of it."""
_SPLIT_FOLDERS: Mapping[str, tuple[str, ...]] = {
    "train_folder": ("train", "training"),
    "val_folder": ("val", "valid", "validation"),
    "test_folder": ("test", "testing"),
}
"""Names of folders that contain the class folders of a split, in lower case."""
_SHARES = (0.1, 0.2, 0.3, 0.5)
"""Shares of the pictures that are tried for a split: a small share may select less than one picture per class."""
_EXPECTED = "Expected one folder of pictures per class, for example {0}/cat/1.jpg and {0}/dog/1.jpg"


@dataclass(frozen=True)
class Pictures:
    """The pictures of a new study."""

    settings: Mapping[str, Any]
    """The settings of the study's dataset that describe where the pictures are and how they are divided into splits."""
    images: ImageSet
    short_side: int
    """Median length of the shorter side, in pixels."""
    decode_seconds: float
    """Processor time for reading, decoding and encoding one picture."""
    checked: int
    """Number of pictures that were decoded."""

    @property
    def counts(self) -> np.ndarray:
        """Number of training pictures of each class, including those of the holdout."""
        return self.images.counts_before_holdout


def pictures_of_folder(folder: Path) -> Pictures:
    """Examine a folder with one folder of pictures per class, or with such folders for each split.

    Raises:
        UserError: The folder is missing, contains no pictures or fewer than two classes, or pictures cannot be read.
    """
    folder = _existing(folder, "folder")
    expected = _EXPECTED.format(folder)
    settings = {"source": "folder", "root": _as_text(folder), **_split_folders(folder)}
    tree = folder / settings.get("train_folder", ".")
    classes = [path for path in sorted(tree.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    with_images = [path.name for path in classes if next(_image_names(path), None) is not None]
    if not with_images:
        found = next(_image_names(tree), None)
        raise UserError(
            f"{tree}: the folder contains no pictures. {expected}. Pictures end in {', '.join(IMAGE_SUFFIXES)}."
            if found is None
            else f"{tree}: the pictures, for example {found}, are not in folders of classes. {expected}."
        )
    if len(with_images) == 1:
        raise UserError(f"{tree}: there is only one class with pictures, {with_images[0]}. {expected}.")
    if empty := [path.name for path in classes if path.name not in with_images]:
        raise UserError(
            f"{tree}: classes without pictures: {first_of(empty)}. Expected pictures in every folder of a class. Add "
            "pictures, or delete the empty folders."
        )
    return _examined(settings, Folder.model_validate, str(folder))


def pictures_of_lists(train: Path, test: Path, root: Path | None) -> Pictures:
    """Examine lists with one picture and its label per line.

    Args:
        train: The list of training pictures.
        test: The list of test pictures.
        root: Folder to which the paths in the lists are relative. None is the folder of the list of training pictures.

    Raises:
        UserError: A list is missing or invalid, there are fewer than two classes, or pictures cannot be read.
    """
    train, test = _existing(train, "file"), _existing(test, "file")
    folder = train.parent if root is None else _existing(root, "folder")
    settings = {
        "source": "lists",
        "root": _as_text(folder),
        "train_list": _as_text(train),
        "test_list": _as_text(test),
        **_list_format(train),
    }
    return _examined(settings, Lists.model_validate, str(train))


def _existing(path: Path, kind: str) -> Path:
    """Return the absolute path of an existing folder or file."""
    if not (path.is_dir() if kind == "folder" else path.is_file()):
        if path.exists():
            raise UserError(f"{path}: this is not a {kind}. Expected a {kind} of your pictures.")
        raise UserError(f"{path}: no such {kind}. Relative paths start at the current folder, {Path.cwd()}.")
    return path.resolve()


def _as_text(path: Path) -> str:
    text = str(path)
    if printable(text) != text:
        raise UserError(f"{printable(text)}: this path is not valid UTF-8 text. Rename the folder or the file.")
    return text


def _split_folders(folder: Path) -> dict[str, str]:
    """Return the settings of the folders of splits; empty if the folder itself contains the class folders.

    Among other folders of pictures, a folder with the name of a split that directly contains pictures, and no folders
    of pictures, is a class, such as `train` beside `bus` and `car`.
    """
    names = {path.name.lower(): path.name for path in folder.iterdir() if path.is_dir()}
    found = {
        setting: next((names[name] for name in spellings if name in names), None)
        for setting, spellings in _SPLIT_FOLDERS.items()
    }
    train = found["train_folder"]
    if train is None:
        return {}
    others = [folder / name for name in names.values() if name not in found.values() and not name.startswith(".")]
    within = list((folder / train).iterdir())
    is_class = any(path.is_file() and is_image_name(path.name) for path in within) and not any(
        path.is_dir() and next(_image_names(path), None) is not None for path in within
    )
    if is_class and any(next(_image_names(other), None) is not None for other in others):
        return {}
    return {setting: name for setting, name in found.items() if name is not None}


def _image_names(folder: Path) -> Iterator[str]:
    """Yield the names of the pictures below a folder."""
    for _, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (name for name in files if is_image_name(name))


def _list_format(path: Path) -> dict[str, str]:
    """Return the settings for the separator and the labels of a list, determined from its first lines."""
    lines = [line.strip() for line in read_text(path).split("\n")[:200] if line.strip()]
    separator = next(
        (name for name in ("tab", "comma", "space") if lines and all(SEPARATORS[name] in line for line in lines)),
        "space",
    )
    labels = [line.rpartition(SEPARATORS[separator])[2].strip() for line in lines]
    settings = {"separator": separator} if separator != "space" else {}
    return settings | ({} if all(label.isdecimal() for label in labels) else {"labels": "names"})


def _examined(settings: dict[str, Any], section: Any, subject: str) -> Pictures:
    """Read the pictures, with the missing splits taken from the training pictures, and decode a sample of them."""
    images, settings = _with_splits(settings, section)
    if len(images.classes) < 2:
        raise UserError(
            f"{subject}: there is only one class, {first_of(images.classes)}. Expected at least two classes."
        )
    short_side, seconds, checked = _decoded_sample(images, subject)
    return Pictures(settings, images, short_side, seconds, checked)


def _with_splits(settings: dict[str, Any], section: Any) -> tuple[ImageSet, dict[str, Any]]:
    """Return the images and the settings with those of a test split and a val split, if there are none."""
    neutral = {"name": "pictures", "pixel_mean": (0.5,) * 3, "pixel_std": (0.5,) * 3, "storage": "raw"}
    added: list[str] = [] if {"test_folder", "test_list"} & settings.keys() else ["test"]
    added += [] if {"val_folder", "val_list"} & settings.keys() else ["holdout"]
    failure: UserError | None = None
    for share in _SHARES:
        splits = {name: {"share": max(share, 0.2) if name == "test" else share, "seed": 0} for name in added}
        try:
            images = read_dataset(section({**settings, **splits, **neutral}), 0)
        except UserError as error:
            failure = failure or error
            if "selects less than one" not in str(error):
                break
        else:
            return images, {**settings, **splits}
    assert failure is not None
    raise failure


def _decoded_sample(images: ImageSet, subject: str) -> tuple[int, float, int]:
    """Return the median shorter side, the processor time per picture, and the number of pictures that were decoded.

    Raises:
        UserError: Pictures cannot be read. The message names the first ones.
    """
    splits = [split for split in images.splits.values() if len(split)]
    positions = [(split, i) for split in splits for i in range(len(split))]
    encoding = Encoding("raw", 90, 256, "area")
    sides, unreadable = list[int](), list[str]()
    checked, began, deadline = 0, time.thread_time(), time.monotonic() + CHECK_SECONDS
    # In random order, the sample covers all splits and classes if the time is over.
    for number in np.random.default_rng(0).permutation(len(positions)).tolist():
        split, i = positions[number]
        try:
            encoded = encode(split.read(i), encoding)
            sides.append(min(encoded.height, encoded.width))
        except Unreadable as error:
            unreadable.append(f"{split.names[i]} {error}")
        except OSError as error:
            unreadable.append(f"{split.names[i]} cannot be read: {error.strerror or error}")
        checked += 1
        if time.monotonic() > deadline:
            break
    if unreadable:
        raise UserError(
            f"{subject}: {len(unreadable):,} of {checked:,} checked pictures cannot be read: "
            f"{first_of([printable(text) for text in unreadable])}. Replace or delete these files."
        )
    return int(np.median(sides)), (time.thread_time() - began) / checked, checked
