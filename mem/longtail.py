"""The long-tail protocol: class orders, cuts, groups of classes and partitions.

It stands at the bottom because the data, the heads and the metrics all need it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64

from mem import rng
from mem.config import LongTailCut, Shots
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


def tail_counts(cut: LongTailCut, sizes: np.ndarray) -> tuple[int, ...]:
    """Training images per class that a cut asks for, most frequent first where it is made by `imbalance`.

    Args:
        cut: By `counts`, or by the exponential rule of Cui et al. 2019: int(largest * imbalance^(-i / (K - 1))).
        sizes: Images of each class before the cut.

    Raises:
        UserError: `counts` has another number of classes, or a class would keep no image.
    """
    classes = len(sizes)
    if cut.counts is not None:
        if len(cut.counts) != classes:
            raise UserError(f"cut.counts: needs one count for each of the {classes} classes, got {len(cut.counts)}")
        return cut.counts
    assert cut.imbalance is not None
    largest = cut.largest or int(sizes.min()) - cut.val_per_class
    steps = np.arange(classes) / max(classes - 1, 1)
    counts = (largest * (1 / cut.imbalance) ** steps).astype(np.int64)
    if counts.min() < 1:
        raise UserError(
            f"cut.imbalance: {cut.imbalance:g} leaves the smallest class without an image where the largest has "
            f"{largest}"
        )
    return tuple(counts.tolist())


def ordered_counts(counts: Sequence[int], order: int) -> Int64[np.ndarray, " classes"]:
    """Training images per class, when `order` says which class stands where along the tail.

    Order 0 is the data set's own: class k gets `counts[k]`. Any other number seeds a permutation of the classes.
    """
    values = np.asarray(counts, dtype=np.int64)
    if order == 0:
        return values
    ordered = np.empty_like(values)
    ordered[rng.permutation(order, "class order", 0, len(values))] = values
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
        members = members[rng.permutation(seed, "long-tail cut", k, len(members))]
        train.append(members[:count])
        rest.append(members[count : count + rest_per_class])
    if short:
        raise UserError(
            "The data set has too few images for `counts` plus the images set aside per class: " + "; ".join(short)
        )
    return Cut(np.sort(np.concatenate(train)), np.sort(np.concatenate(rest)))


def cut_to_tail(labels: np.ndarray, classes: int, settings: LongTailCut, order: int) -> Cut:
    """Cut a balanced pool as the settings say, with the classes in the given order along the tail.

    Raises:
        UserError: As in `tail_counts` and `cut`.
    """
    counts = ordered_counts(tail_counts(settings, class_counts(labels, classes)), order)
    return cut(labels, counts, settings.val_per_class, settings.seed)


def cut_share(labels: np.ndarray, classes: int, share: float, seed: int, stream: str) -> Cut:
    """Take a share of each class out, rounded to the nearest; every class keeps at least one image.

    The rest of the cut is what was taken out. Both parts are in the pool's order.
    """
    taken = np.zeros(len(labels), dtype=bool)
    by_class = np.argsort(labels, kind="stable")
    ends = np.cumsum(class_counts(labels, classes))
    for k, (start, end) in enumerate(zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True)):
        number = min(int(share * (end - start) + 0.5), end - start - 1)
        if number > 0:
            taken[by_class[start:end][rng.permutation(seed, stream, k, end - start)[:number]]] = True
    return Cut(np.flatnonzero(~taken), np.flatnonzero(taken))


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
            ranks[rng.permutation(seed, "class partition", 0, classes)] = np.arange(classes)
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
