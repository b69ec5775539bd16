"""The long-tail protocol: class orders, cuts, shot groups and class partitions.

A cut reduces a balanced training split to a long tail. The packages `mem.data`, `mem.heads` and `mem.metrics` share
this module.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64

from mem import rng
from mem.config import LongTailCut, Shots
from mem.errors import UserError

SHOT_NAMES = ("many", "medium", "few")
_NAMED_CLASSES = 10
"""Maximum number of classes that a message lists."""


def class_counts(labels: np.ndarray, classes: int) -> Int64[np.ndarray, " {classes}"]:
    """Return the number of images of each class."""
    return np.bincount(labels, minlength=classes).astype(np.int64)


def without_images(counts: np.ndarray) -> str | None:
    """Return a clause that names at most ten of the classes without training images, or None if there are none.

    For example `class 3 has no training images`, or `12 of 100 classes have no training images: 0, 4, ... and 2 more`.
    """
    empty = np.flatnonzero(counts == 0).tolist()
    if len(empty) < 2:
        return f"class {empty[0]} has no training images" if empty else None
    more = f" and {len(empty) - _NAMED_CLASSES:,} more" if len(empty) > _NAMED_CLASSES else ""
    names = ", ".join(map(str, empty[:_NAMED_CLASSES]))
    return f"{len(empty):,} of {len(counts):,} classes have no training images: {names}{more}"


def positive_counts(counts: np.ndarray) -> np.ndarray:
    """Return the number of training images of each class, where a class without images counts as one image.

    Formulas that divide by a count or take its log use these numbers.
    """
    return np.maximum(counts, 1)


def log_prior(counts: np.ndarray) -> Float64[np.ndarray, " classes"]:
    """Return log pi: the log of each class's share of the training images. An empty class is treated as one image."""
    positive = positive_counts(counts)
    return np.log(positive / positive.sum())


def shot_groups(counts: np.ndarray, shots: Shots) -> Int64[np.ndarray, " classes"]:
    """Return the shot group of each class (0 many, 1 medium, 2 few), given its number of training images.

    Source: section 4.1 of the paper, which follows Liu et al. 2019. Both thresholds are exclusive.
    """
    return np.select([counts > shots.many_above, counts < shots.few_below], [0, 2], 1).astype(np.int64)


def tail_counts(cut: LongTailCut, sizes: np.ndarray) -> tuple[int, ...]:
    """Return the number of training images of each class after a cut, before classes are reordered.

    Args:
        cut: Specifies `counts`, or `imbalance` for the exponential rule of Cui et al. 2019:
            int(largest * imbalance^(-i / (K - 1))), where class i = 0 is the most frequent class.
        sizes: Number of images of each class before the cut.

    Raises:
        UserError: `counts` has the wrong number of classes, or a class would have no image.
    """
    classes = len(sizes)
    if cut.counts is not None:
        if len(cut.counts) != classes:
            raise UserError(f"cut.counts: found {len(cut.counts)} counts; expected one for each of {classes} classes")
        return cut.counts
    assert cut.imbalance is not None
    largest = cut.largest or int(sizes.min()) - cut.val_per_class
    steps = np.arange(classes) / max(classes - 1, 1)
    counts = (largest * (1 / cut.imbalance) ** steps).astype(np.int64)
    if counts.min() < 1:
        raise UserError(
            f"cut.imbalance: with {cut.imbalance:g}, the smallest class has no image if the largest has {largest}. "
            "Choose a smaller imbalance."
        )
    return tuple(counts.tolist())


def ordered_counts(counts: Sequence[int], order: int) -> Int64[np.ndarray, " classes"]:
    """Return the number of training images of each class in the given class order.

    Order 0 is the dataset's order, in which class k has `counts[k]` images. Any other number seeds a permutation of the
    classes.
    """
    values = np.asarray(counts, dtype=np.int64)
    if order == 0:
        return values
    ordered = np.empty_like(values)
    ordered[rng.permutation(order, "class order", 0, len(values))] = values
    return ordered


@dataclass(frozen=True)
class Cut:
    """Parts of a pool of images, as indices: the training images, and the images set aside for another split."""

    train: Int64[np.ndarray, " images"]
    rest: Int64[np.ndarray, " others"]


def cut(labels: np.ndarray, counts: np.ndarray, rest_per_class: int, seed: int) -> Cut:
    """Choose `counts[k]` training images of each class k from a pool, and `rest_per_class` of its remaining images.

    In both parts, the images have the same order as in the pool.

    Raises:
        UserError: A class has too few images.
    """
    train: list[np.ndarray] = []
    rest: list[np.ndarray] = []
    short: list[str] = []
    for k, count in enumerate(counts):
        images = np.flatnonzero(labels == k)
        if count + rest_per_class > len(images):
            short.append(f"class {k} has {len(images)}, needs {count} + {rest_per_class}")
            continue
        images = images[rng.permutation(seed, "long-tail cut", k, len(images))]
        train.append(images[:count])
        rest.append(images[count : count + rest_per_class])
    if short:
        raise UserError(
            "The dataset has too few images for the counts of the cut plus the images set aside per class: "
            f"{'; '.join(short)}. Reduce the counts or the images set aside."
        )
    return Cut(np.sort(np.concatenate(train)), np.sort(np.concatenate(rest)))


def cut_to_tail(labels: np.ndarray, classes: int, settings: LongTailCut, order: int) -> Cut:
    """Reduce a balanced pool of images to a long tail, with the given settings and class order.

    Raises:
        UserError: As in `tail_counts` and `cut`.
    """
    counts = ordered_counts(tail_counts(settings, class_counts(labels, classes)), order)
    return cut(labels, counts, settings.val_per_class, settings.seed)


def hold_out_share(labels: np.ndarray, classes: int, share: float, seed: int, stream: str) -> Cut:
    """Hold out a share of each class's images, rounded to the nearest integer. Every class keeps at least one image.

    The held-out images are the `rest` of the cut. In both parts, the images have the same order as in the pool.
    """
    held_out = np.zeros(len(labels), dtype=bool)
    by_class = np.argsort(labels, kind="stable")
    ends = np.cumsum(class_counts(labels, classes))
    for k, (start, end) in enumerate(zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True)):
        number = min(int(share * (end - start) + 0.5), end - start - 1)
        if number > 0:
            held_out[by_class[start:end][rng.permutation(seed, stream, k, end - start)[:number]]] = True
    return Cut(np.flatnonzero(~held_out), np.flatnonzero(held_out))


def partition(strategy: str, counts: np.ndarray, groups: int, shots: Shots, seed: int) -> Int64[np.ndarray, " classes"]:
    """Divide the classes into groups by one of the paper's three strategies (section 4.3); return each class's group.

    `shot` is strategy 1, `random_even` is strategy 2, and `cardinality_even` is strategy 3. In strategy 3, classes are
    sorted by their number of training images in descending order (ties by class number) and divided into groups of
    equal size.

    Raises:
        UserError: A group would be empty.
    """
    classes = len(counts)
    if strategy == "shot":
        assigned = shot_groups(counts, shots)
    else:
        ranks = np.empty(classes, dtype=np.int64)
        if strategy == "random_even":
            ranks[rng.permutation(seed, "class partition", 0, classes)] = np.arange(classes)
        else:
            ranks[np.argsort(-counts, kind="stable")] = np.arange(classes)
        assigned = ranks * groups // classes
    empty = [g for g in range(groups) if not (assigned == g).any()]
    if empty:
        names = [SHOT_NAMES[g] if strategy == "shot" else str(g) for g in empty]
        raise UserError(
            f"The partition `{strategy}` of {classes} classes into {groups} groups leaves a group empty: "
            f"{', '.join(names)}. Change the thresholds (`shots`), or choose fewer groups or another partition."
        )
    return assigned


def group_membership(group_of_class: np.ndarray, groups: int) -> Bool[np.ndarray, "{groups} classes"]:
    """Return a matrix that specifies whether each class (column) belongs to each group (row)."""
    return group_of_class[None, :] == np.arange(groups)[:, None]
