"""Checks that require only index files: counts, empty classes, duplicates, and the labels of class folders."""

from __future__ import annotations

import posixpath
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain

import numpy as np

from mem.data.check.findings import Findings, Severity, counted, first_few
from mem.data.datasets import ImageSet
from mem.data.datasets.manifest import count_differences, first_folders
from mem.data.datasets.problems import MAX_EXAMPLES
from mem.longtail import class_counts

_MAX_MIXED = 0.1
"""Maximum fraction of a split's folders that may have several labels. Above it, they are not class folders."""


def check_counts(images: ImageSet, findings: Findings) -> None:
    """Compare the dataset's counts with the published counts."""
    reference = images.reference
    if reference is None:
        return
    differences = count_differences(images)
    if not differences:
        findings.passed.append(f"counts per split, class and shot group match {reference.title}")
        return
    findings.add(
        Severity.WARNING,
        f"The counts differ from those of {reference.title}",
        differences,
        advice="Download the published lists again. Results on different data cannot be compared with published "
        "results.",
    )


def check_empty_classes(images: ImageSet, findings: Findings) -> None:
    """Report classes without training images."""
    counts = class_counts(images.train.labels, len(images.classes))
    empty = [images.classes[k] for k in np.flatnonzero(counts == 0)]
    if empty:
        findings.add(
            Severity.ERROR,
            f"{counted(len(empty), 'class has', 'classes have')} no training images",
            empty,
            advice="Check that the training list and the class list belong to the same dataset. Add images or "
            "remove the classes.",
        )


def check_duplicates(images: ImageSet, findings: Findings) -> None:
    """Report images that occur twice in a split or in two splits. Images are compared by name, then by file path."""
    splits = images.splits.items()
    for columns in ({name: split.names for name, split in splits}, {name: split.files or () for name, split in splits}):
        by_splits: dict[tuple[str, str], list[str]] = {}
        for first, second, entry in _duplicates(columns):
            by_splits.setdefault((first, second), []).append(entry)
        for (first, second), entries in by_splits.items():
            where = f"twice in {first}" if first == second else f"in both {first} and {second}"
            findings.add(
                Severity.ERROR,
                f"{counted(len(entries), 'image is', 'images are')} listed {where}",
                entries,
                advice="Each image must occur only once, in a single split. Remove the duplicates from a list.",
            )
        if by_splits:
            return
    findings.passed.append("no image is listed twice")


def _duplicates(columns: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, str, str]]:
    """For each repeated entry, yield the split of its first occurrence, the split of the repetition, and the entry."""
    if len(set(chain(*columns.values()))) == sum(map(len, columns.values())):
        return
    first_split: dict[str, str] = {}
    for split, column in columns.items():
        for entry in column:
            if entry in first_split:
                yield first_split[entry], split, entry
            else:
                first_split[entry] = split


def check_labels(images: ImageSet, findings: Findings) -> None:
    """Report class folders whose images have several labels, in one split or across splits.

    Splits without class folders are skipped.
    """
    codes: dict[str, int] = {}
    pairs: list[np.ndarray] = []
    for split in images.splits.values():
        code = np.fromiter((codes.setdefault(_class_folder(name), len(codes)) for name in split.names), np.int64)
        folder_label_pairs = np.unique(code * len(images.classes) + split.labels)
        labels = np.unique(folder_label_pairs // len(images.classes), return_counts=True)[1]
        if (labels > 1).sum() <= _MAX_MIXED * len(labels):
            pairs.append(folder_label_pairs)
    folder_of, label_of = np.divmod(np.unique(np.concatenate([*pairs, np.empty(0, np.int64)])), len(images.classes))
    labels = np.bincount(folder_of, minlength=len(codes))
    mixed = np.flatnonzero(labels > 1)
    if (labels > 0).sum() < 2:
        return
    names = list(codes)
    _note_labels_sorted_as_text(images, findings)
    if len(mixed):
        examples = [f"{names[k]} (labels {first_few(label_of[folder_of == k].tolist())})" for k in mixed[:MAX_EXAMPLES]]
        findings.add(
            Severity.WARNING,
            f"{counted(len(mixed), 'folder has', 'folders have')} images with several labels",
            examples,
            count=len(mixed),
            advice="All other folders have one label. Check that the labels of train, val and test are numbered in the "
            "same way.",
        )
    else:
        findings.passed.append(f"each of {(labels > 0).sum():,} folders has one label, the same in every split")


def check_class_names(images: ImageSet, findings: Findings) -> None:
    """Report class names that differ only in capitalisation, spaces or similar characters."""
    alike: dict[str, list[str]] = {}
    for name in images.classes:
        visible = "".join(c for c in unicodedata.normalize("NFKC", name) if unicodedata.category(c) != "Cf")
        alike.setdefault(" ".join(visible.casefold().split()), []).append(name)
    if groups := [names for names in alike.values() if len(names) > 1]:
        findings.add(
            Severity.NOTE,
            f"{counted(len(groups), 'group of class names differs', 'groups of class names differ')} only in "
            "capitalisation, spaces or similar characters",
            [" / ".join(map(repr, names)) for names in groups],
            advice="They are different classes. If they are one class, correct the names.",
        )


def _class_folder(name: str) -> str:
    """Return the folder path in an image name without its first folder, which belongs to the split or the archive."""
    folder = posixpath.dirname(name)
    return folder.partition("/")[2] or folder


def _note_labels_sorted_as_text(images: ImageSet, findings: Findings) -> None:
    """Report class folders with numeric names that were sorted as text, so that labels differ from the numbers."""
    numbers = [posixpath.basename(folder) for folder in first_folders(images)]
    if all(number.isdecimal() for number in numbers) and numbers == sorted(numbers):
        different = [k for k, number in enumerate(numbers) if int(number) != k]
        if numbers != sorted(numbers, key=int) and different:
            k = different[0]
            findings.add(
                Severity.NOTE,
                f"Labels follow the numbered folders sorted as text: label {k} is folder {numbers[k]}",
                advice="Classifiers that were trained elsewhere with folder numbers as labels do not match these "
                "labels.",
            )
