"""Hold out whole groups of images, for example all images of a patient, so that val has no near copies of train."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64

from mem import rng
from mem.config import GroupBy, Table
from mem.config.data import ImageData
from mem.data.datasets.problems import Problems
from mem.data.datasets.table import read_column
from mem.errors import first_of
from mem.longtail import Cut, class_counts

_MAX_PASSES = 20
"""Maximum number of passes over the groups. After the first passes, few groups change."""


def groups_of(names: Sequence[str], dataset: ImageData, settings: GroupBy) -> Int64[np.ndarray, " images"]:
    """Return the number of each image's group. Groups are numbered in the order of their names.

    Args:
        names: Name of each image: for folders, lists and tables the path relative to `root`.
        dataset: The dataset, whose table contains the column.
        settings: The regular expression or the column.

    Raises:
        UserError: The regular expression does not match the names of all images, or the column is missing or has empty
            cells.
    """
    if settings.regex is not None:
        found = list(map(re.compile(settings.regex).search, names))
        values = [None if match is None else match[1] for match in found]
        origin, what = "dataset.holdout.group_by.regex", f"images without a match of `{settings.regex}`"
        advice = "Expected a match with a group in every path. Correct the regular expression"
    else:
        assert isinstance(dataset, Table) and settings.column is not None
        by_path = read_column(dataset, settings.column)
        values = [by_path.get(name) for name in names]
        origin, what = str(dataset.table), f"images without a {settings.column}"
        advice = "Expected a group in every row (dataset.holdout.group_by.column)"
    if without := [name for name, value in zip(names, values, strict=True) if not value]:
        problems = Problems(origin)
        problems.add_many(what, without, len(without), advice)
        problems.raise_if_any()
    return np.unique(np.asarray(values, dtype=object).astype(str), return_inverse=True)[1].astype(np.int64)


def hold_out_groups(labels: np.ndarray, classes: int, groups: np.ndarray, share: float, seed: int) -> Cut:
    """Hold out whole groups of images, so that about the same share of each class is held out.

    The target is the number of images that is held out without groups. Groups are visited in a random order. A group
    is held out, or kept again, if this reduces the mean over classes of the difference from the target relative to the
    number of images of the class. Every class keeps at least one training image. A group can contain images of several
    classes, which stay together. If every image is a group of its own, the target is reached exactly.

    Args:
        labels: Class of each image.
        classes: Number of classes.
        groups: Group of each image, from 0.
        share: Share of each class to hold out.
        seed: Seed of the order.

    Returns:
        The training images, and the held-out images as `rest`.
    """
    counts = class_counts(labels, classes)
    target = np.clip(np.floor(share * counts + 0.5), 0, np.maximum(counts - 1, 0))
    pairs, images = np.unique(np.stack([groups, labels]), axis=1, return_counts=True)
    number = int(groups.max(initial=-1)) + 1
    bounds = np.searchsorted(pairs[0], np.arange(number + 1))
    held, is_held = np.zeros(classes), np.zeros(number, dtype=bool)
    order = rng.permutation(seed, "holdout groups", 0, number).tolist()
    for _ in range(_MAX_PASSES):
        changed = False
        for group in order:
            part = slice(bounds[group], bounds[group + 1])
            k, moved = pairs[1][part], images[part] * (-1 if is_held[group] else 1)
            after = held[k] + moved
            gain = ((np.abs(held[k] - target[k]) - np.abs(after - target[k])) / counts[k]).sum()
            if gain > 1e-12 and (after < counts[k]).all():
                held[k], is_held[group], changed = after, not is_held[group], True
        if not changed:
            break
    chosen = is_held[groups]
    return Cut(np.flatnonzero(~chosen), np.flatnonzero(chosen))


def describe_groups(labels: np.ndarray, classes: Sequence[str], groups: np.ndarray, parts: Cut, share: float) -> str:
    """Describe how many groups and images are held out, and the classes that cannot be divided."""
    pairs = np.unique(np.stack([groups, labels]), axis=1)
    groups_of_class = np.bincount(pairs[1], minlength=len(classes))
    single = [classes[k] for k in np.flatnonzero(groups_of_class == 1).tolist()]
    several = int((np.bincount(pairs[0]) > 1).sum())
    actual = 100 * len(parts.rest) / max(len(labels), 1)
    text = (
        f"`holdout.group_by` holds out {len(np.unique(groups[parts.rest])):,} of {len(np.unique(groups)):,} groups, "
        f"with {actual:.1f} % of the training images (holdout.share: {100 * share:g} %)"
    )
    if several:
        text += f". Images of several classes are in {several:,} of the groups"
    if single:
        have = "1 class has" if len(single) == 1 else f"{len(single):,} classes have"
        text += f". {have} a single group, which stays in train: {first_of(single)}"
    return text
