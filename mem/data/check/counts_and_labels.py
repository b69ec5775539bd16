"""What the lists of a data set say, before any file is looked for: counts, classes, duplicates, labels of folders."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain

import numpy as np

from mem.data.check.findings import Findings, Severity, few, number
from mem.data.datasets import ImageSet
from mem.data.datasets.manifest import count_differences, first_folders
from mem.data.datasets.problems import MAX_EXAMPLES
from mem.longtail import class_counts

_MIXED = 0.1
"""Where more of a split's folders than this hold several labels, they are no classes."""


def check_counts(images: ImageSet, findings: Findings) -> None:
    """Counts that are not those of the data set's publication."""
    facts = images.reference
    if facts is None:
        return
    differences = count_differences(images)
    if not differences:
        findings.fine.append(f"counts are those of {facts.title}: per split, per class and by group")
        return
    findings.add(
        Severity.DOUBTFUL,
        f"Counts are not those of {facts.title}",
        differences,
        advice="Get the published lists again; results on other counts are not comparable with published ones.",
    )


def check_empty_classes(images: ImageSet, findings: Findings) -> None:
    """Classes without a training image."""
    counts = class_counts(images.train.labels, len(images.classes))
    empty = [images.classes[k] for k in np.flatnonzero(counts == 0)]
    if empty:
        findings.add(
            Severity.WRONG,
            f"{number(len(empty), 'class has', 'classes have')} no training image",
            empty,
            advice="Are the training list and the list of classes of the same data set?",
        )


def check_duplicates(images: ImageSet, findings: Findings) -> None:
    """Images that stand twice in a split, or in two: by name, else by file."""
    splits = images.splits.items()
    for columns in ({name: split.names for name, split in splits}, {name: split.files or () for name, split in splits}):
        places: dict[tuple[str, str], list[str]] = {}
        for first, second, entry in _twice(columns):
            places.setdefault((first, second), []).append(entry)
        for (first, second), entries in places.items():
            where = f"twice in {first}" if first == second else f"in {first} and in {second}"
            findings.add(
                Severity.WRONG,
                f"{number(len(entries), 'image stands', 'images stand')} {where}",
                entries,
                advice="An image stands once, and splits are disjoint: take these out of one of the lists.",
            )
        if places:
            return
    findings.fine.append("no image stands twice, none in two splits")


def _twice(columns: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, str, str]]:
    """First place, second place and entry of each that stands twice."""
    if len(set(chain(*columns.values()))) == sum(map(len, columns.values())):
        return
    seen: dict[str, str] = {}
    for split, column in columns.items():
        for entry in column:
            if entry in seen:
                yield seen[entry], split, entry
            else:
                seen[entry] = split


def check_labels(images: ImageSet, findings: Findings) -> None:
    """Folders whose images have several labels, in one split or between them, where folders are classes at all."""
    codes: dict[str, int] = {}
    pairs: list[np.ndarray] = []
    for split in images.splits.values():
        at = np.fromiter((codes.setdefault(_class_folder(name), len(codes)) for name in split.names), np.int64)
        found = np.unique(at * len(images.classes) + split.labels)
        labels = np.unique(found // len(images.classes), return_counts=True)[1]
        if (labels > 1).sum() <= _MIXED * len(labels):
            pairs.append(found)
    folder_of, label_of = np.divmod(np.unique(np.concatenate([*pairs, np.empty(0, np.int64)])), len(images.classes))
    labels = np.bincount(folder_of, minlength=len(codes))
    mixed = np.flatnonzero(labels > 1)
    if (labels > 0).sum() < 2:
        return
    names = list(codes)
    _tell_text_order(images, findings)
    if len(mixed):
        examples = [f"{names[k]} (labels {few(label_of[folder_of == k].tolist())})" for k in mixed[:MAX_EXAMPLES]]
        findings.add(
            Severity.DOUBTFUL,
            f"{number(len(mixed), 'folder holds', 'folders hold')} images of several labels",
            examples,
            count=len(mixed),
            advice="All other folders are one class each: are the labels of train, val and test numbered alike?",
        )
    else:
        findings.fine.append(f"each of {(labels > 0).sum():,} folders holds one label, the same one in every split")


def _class_folder(name: str) -> str:
    """The folders of a name without the first, which is the split's or the archive's."""
    folder = posixpath.dirname(name)
    return folder.partition("/")[2] or folder


def _tell_text_order(images: ImageSet, findings: Findings) -> None:
    """Numbered folders whose labels follow them as text, so that label and number differ."""
    numbers = [posixpath.basename(folder) for folder in first_folders(images)]
    if all(number.isdecimal() for number in numbers) and numbers == sorted(numbers):
        differs = [k for k, number in enumerate(numbers) if int(number) != k]
        if numbers != sorted(numbers, key=int) and differs:
            k = differs[0]
            findings.add(
                Severity.NOTE,
                f"Labels follow the numbers of the folders sorted as text: label {k} is folder {numbers[k]}",
                advice="Weights trained elsewhere with label = number of the folder do not fit these labels.",
            )
