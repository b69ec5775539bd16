"""From labels as they are written to labels 0 to K - 1 without gaps, each with a training image."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int64

from mem.data.datasets.index_files import Rows
from mem.data.datasets.problems import Problems
from mem.errors import UserError

_DIGITS = re.compile(r"[0-9]{1,18}")
_NEGATIVE = re.compile(r"-[0-9]+")
_BY_NAME = "Labels are whole numbers from 0; where they are names, set `labels: names`"


def numeric_labels(rows: Rows) -> Int64[np.ndarray, " rows"]:
    """Labels that are written as numbers.

    Raises:
        UserError: Some are negative or no numbers.
    """
    joined = "".join(rows.labels)
    if joined.isascii() and joined.isdigit() and all(rows.labels) and max(map(len, rows.labels)) <= 18:
        return np.fromiter(map(int, rows.labels), np.int64, len(rows))
    faults = Problems(rows.origin)
    for i, label in enumerate(rows.labels):
        if _NEGATIVE.fullmatch(label):
            faults.add("labels that are negative", rows.where(i), "Labels are whole numbers from 0")
        elif not _DIGITS.fullmatch(label):
            faults.add("labels that are no numbers", rows.where(i), _BY_NAME)
    faults.raise_if_any()
    return np.zeros(0, np.int64)


def named_labels(rows: Rows, classes: Sequence[str]) -> Int64[np.ndarray, " rows"]:
    """Labels that are written as names, as positions in `classes`.

    Raises:
        UserError: Some are no name of a class.
    """
    place = {name: k for k, name in enumerate(classes)}
    found = [place.get(label, -1) for label in rows.labels]
    faults = Problems(rows.origin)
    for i, k in enumerate(found):
        if k < 0:
            faults.add("labels that are no name of a class", rows.where(i))
    faults.raise_if_any()
    return np.asarray(found, dtype=np.int64)


def natural_sort(names: Sequence[str]) -> list[str]:
    """Names in natural order: numbers in them count as numbers, so that `class2` comes before `class10`."""

    def key(part: str) -> tuple[int, int, str]:
        digits = part.lstrip("0")
        return (0, len(digits), digits) if "0" <= part[0] <= "9" else (1, 0, part)

    return sorted(names, key=lambda name: ([key(part) for part in re.split(r"([0-9]+)", name) if part], name))


def check_classes(labels: Mapping[str, np.ndarray], classes: int | None, origin: str, names: Sequence[str] = ()) -> int:
    """Raise where a class has no training image.

    Args:
        labels: Labels of each split; `train` among them.
        classes: Number of classes, where it is known otherwise; else the largest label says it.
        origin: What the labels are of, for the message.
        names: What the message calls the classes; numbers without it.

    Returns:
        The number of classes.

    Raises:
        UserError: Labels have gaps or go beyond the classes, or a class has no training image. How many and which.
    """
    present = {split: set(np.unique(values).tolist()) for split, values in labels.items()}
    anywhere = set().union(*present.values())
    if not present["train"]:
        raise UserError(f"{origin}: the training split is empty")
    faults = Problems(origin)

    def named(k: int) -> str:
        return names[k] if names else str(k)

    number = max(anywhere) + 1 if classes is None else classes
    if beyond := sorted(label for label in anywhere if label >= number):
        faults.add_all("labels beyond the classes", map(str, beyond), len(beyond), f"Classes are 0 to {number - 1}")
    inside = [label for label in anywhere if label < number]
    if gaps := number - len(inside):
        advice = "" if names else f"Labels must be 0 to {number - 1} without gaps"
        kind = "classes that no image has" if names else "classes that no image has (labels with gaps)"
        if classes is None:
            advice += "; `labels: names` takes any numbers, as names of classes"
        absent = (named(k) for k in range(number) if k not in anywhere)
        faults.add_all(kind, absent, gaps, advice)
    if untrained := sorted(label for label in inside if label not in present["train"]):
        faults.add_all("classes without a training image", map(named, untrained), len(untrained))
    faults.raise_if_any()
    return number
