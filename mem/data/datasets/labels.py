"""Conversion of labels from text to integers from 0 to K - 1, and a check that every class has training images."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int64

from mem.data.datasets.index_files import Rows
from mem.data.datasets.problems import Problems
from mem.data.datasets.spellings import composed
from mem.errors import UserError

_DIGITS = re.compile(r"[0-9]{1,18}")
_NEGATIVE = re.compile(r"-[0-9]+")
_MISSING_VALUES = ("nan", "<na>", "nat")
"""Texts, in lower case, that pandas and NumPy write for a missing value."""


def numeric_labels(rows: Rows) -> Int64[np.ndarray, " rows"]:
    """Convert labels that are written as numbers.

    Raises:
        UserError: Labels are negative or not numbers.
    """
    joined = "".join(rows.labels)
    if joined.isascii() and joined.isdigit() and all(rows.labels) and max(map(len, rows.labels)) <= 18:
        return np.fromiter(map(int, rows.labels), np.int64, len(rows))
    problems = Problems(rows.origin)
    for i, label in enumerate(rows.labels):
        if _NEGATIVE.fullmatch(label):
            problems.add("negative labels", rows.describe(i), "Expected integers from 0")
        elif not _DIGITS.fullmatch(label):
            advice = "Expected integers from 0. If the labels are class names, set `labels: names`"
            problems.add("labels that are not numbers", rows.describe(i), advice)
    problems.raise_if_any()
    return np.zeros(0, np.int64)


def named_labels(rows: Rows, classes: Sequence[str]) -> Int64[np.ndarray, " rows"]:
    """Convert labels that are written as class names to indices into `classes`.

    The composed and the decomposed spelling (NFC, NFD) of a name are equal.

    Raises:
        UserError: A label is not in `classes`.
    """
    number_of = {composed(name): k for k, name in enumerate(classes)}
    label_of = {name: number_of.get(composed(name), -1) for name in set(rows.labels)}
    labels = [label_of[name] for name in rows.labels]
    problems = Problems(rows.origin)
    for i, label in enumerate(labels):
        if label < 0:
            problems.add("labels that are not class names", rows.describe(i), "Correct them or extend `class_names`")
    problems.raise_if_any()
    return np.asarray(labels, dtype=np.int64)


def require_labels(rows: Rows, classes: Sequence[str] | None) -> None:
    """Check that no label is the text of a missing value, such as `nan`, unless it is in the given class names.

    Raises:
        UserError: Labels are missing values.
    """
    missing = {name for name in set(rows.labels) if name.lower() in _MISSING_VALUES} - set(classes or ())
    if not missing:
        return
    problems = Problems(rows.origin)
    for i, label in enumerate(rows.labels):
        if label in missing:
            advice = "Add the labels or remove the images. If this is the name of a class, list it in `class_names`"
            problems.add("labels that are a missing value", rows.describe(i), advice)
    problems.raise_if_any()


def natural_sort(names: Sequence[str]) -> list[str]:
    """Sort names in natural order, with sequences of digits compared as numbers: `class2` precedes `class10`."""

    def key(part: str) -> tuple[int, int, str]:
        digits = part.lstrip("0")
        return (0, len(digits), digits) if "0" <= part[0] <= "9" else (1, 0, part)

    return sorted(names, key=lambda name: ([key(part) for part in re.split(r"([0-9]+)", name) if part], name))


def count_classes(labels: Mapping[str, np.ndarray], classes: int | None, origin: str, names: Sequence[str] = ()) -> int:
    """Determine the number of classes, and check that each class has at least one training image.

    Args:
        labels: Labels of each split, including `train`.
        classes: Number of classes, or None to derive it from the largest label.
        origin: Source of the labels, for error messages.
        names: Class names for error messages. If empty, messages contain labels instead.

    Raises:
        UserError: Labels have gaps or are out of range, or classes have no training images.
    """
    present = {split: set(np.unique(values).tolist()) for split, values in labels.items()}
    anywhere = set().union(*present.values())
    if not present["train"]:
        raise UserError(f"{origin}: the training split is empty. Add training images.")
    problems = Problems(origin)

    def name_of(label: int) -> str:
        return names[label] if names else str(label)

    number = max(anywhere) + 1 if classes is None else classes
    if beyond := sorted(label for label in anywhere if label >= number):
        advice = f"Expected 0 to {number - 1}"
        problems.add_many("labels out of range", map(str, beyond), len(beyond), advice)
    inside = [label for label in anywhere if label < number]
    if gaps := number - len(inside):
        advice = "" if names else f"Labels must be 0 to {number - 1} without gaps"
        if classes is None:
            advice += "; to use any numbers as labels, set `labels: names`"
        absent = (name_of(k) for k in range(number) if k not in anywhere)
        problems.add_many("classes without images", absent, gaps, advice)
    if untrained := sorted(label for label in inside if label not in present["train"]):
        advice = "Add images or remove the classes"
        problems.add_many("classes without training images", map(name_of, untrained), len(untrained), advice)
    problems.raise_if_any()
    return number
