"""The long-tail protocol: class orders, cuts, groups of classes and partitions.

It stands at the bottom because the data, the heads and the metrics all need it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64

from mem import draws
from mem.config import Shots
from mem.errors import UserError

SHOT_NAMES = ("many", "medium", "few")


def class_counts(labels: np.ndarray, classes: int) -> Int64[np.ndarray, " {classes}"]:
    """Images of each class."""
    return np.bincount(labels, minlength=classes).astype(np.int64)


def shot_groups(counts: np.ndarray, shots: Shots) -> Int64[np.ndarray, " classes"]:
    """Group of each class by its training images: 0 many-shot, 1 medium-shot, 2 few-shot.

    Source: Liu et al. 2019 (the paper's section 4.1), with exclusive thresholds.
    """
    return np.select([counts > shots.many_above, counts < shots.few_below], [0, 2], 1).astype(np.int64)


def ordered_counts(counts: Sequence[int], order: int) -> Int64[np.ndarray, " classes"]:
    """Training images per class, when `order` says which class stands where along the tail.

    Order 0 is the data set's own: class k gets `counts[k]`. Any other number seeds a permutation of the classes.
    """
    values = np.asarray(counts, dtype=np.int64)
    if order == 0:
        return values
    ordered = np.empty_like(values)
    ordered[draws.permutation(order, "class order", 0, len(values))] = values
    return ordered


@dataclass(frozen=True)
class Cut:
    """Positions, in a pool of images, of a long-tailed training split and a balanced one from what was discarded."""

    train: Int64[np.ndarray, " images"]
    rest: Int64[np.ndarray, " others"]


def cut(labels: np.ndarray, counts: np.ndarray, rest_per_class: int, seed: int) -> Cut:
    """Cut a balanced pool to `counts` images a class, and take `rest_per_class` from what the cut discards.

    Both splits are in the pool's order.

    Raises:
        UserError: A class has too few images.
    """
    train: list[np.ndarray] = []
    rest: list[np.ndarray] = []
    short: list[str] = []
    for k, count in enumerate(counts):
        members = np.flatnonzero(labels == k)
        if count + rest_per_class > len(members):
            short.append(f"class {k} has {len(members)}, {count} + {rest_per_class} are asked for")
            continue
        members = members[draws.permutation(seed, "long-tail cut", k, len(members))]
        train.append(members[:count])
        rest.append(members[count : count + rest_per_class])
    if short:
        raise UserError(
            "The data set has too few images for `counts` plus the images set aside per class: " + "; ".join(short)
        )
    return Cut(np.sort(np.concatenate(train)), np.sort(np.concatenate(rest)))


def partition(strategy: str, counts: np.ndarray, groups: int, shots: Shots, seed: int) -> Int64[np.ndarray, " classes"]:
    """Group of each class, by one of the paper's three strategies (section 4.3).

    `shot` is strategy 1, `random_even` strategy 2 and `cardinality_even` strategy 3: classes sorted by training
    images, the most frequent first (equal ones in class order), cut into even parts.

    Raises:
        UserError: A group would be empty.
    """
    classes = len(counts)
    if strategy == "shot":
        assigned = shot_groups(counts, shots)
    else:
        ranks = np.empty(classes, dtype=np.int64)
        if strategy == "random_even":
            ranks[draws.permutation(seed, "class partition", 0, classes)] = np.arange(classes)
        else:
            ranks[np.argsort(-counts, kind="stable")] = np.arange(classes)
        assigned = ranks * groups // classes
    empty = [g for g in range(groups) if not (assigned == g).any()]
    if empty:
        names = [SHOT_NAMES[g] if strategy == "shot" else str(g) for g in empty]
        raise UserError(
            f"Partition `{strategy}` of {classes} classes into {groups} groups leaves a group empty: "
            f"{', '.join(names)}. Choose other thresholds (`shots`), fewer groups or another partition."
        )
    return assigned


def members(groups: np.ndarray, number: int) -> Bool[np.ndarray, "{number} classes"]:
    """Which classes belong to which group."""
    return groups[None, :] == np.arange(number)[:, None]
