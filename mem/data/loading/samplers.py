"""Samplers, which map the index of a training sample to an image. Random access lets training resume at any step."""

from __future__ import annotations

from functools import lru_cache
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int64

from mem import rng
from mem.longtail import class_counts

IMAGES_PER_VISIT = 4
"""Number of consecutive images that class-balanced sampling for heads selects from one class (Kang et al. 2020)."""


@runtime_checkable
class Sampler(Protocol):
    """An endless sequence of image indices."""

    def indices(self, start: int, count: int) -> Int64[np.ndarray, " {count}"]:
        """Return the image indices of the samples `start` to `start + count - 1`."""
        ...


class InstanceSampler:
    """Samples every image once per epoch and reshuffles the images each epoch. A batch may span two epochs."""

    def __init__(self, images: int, seed: int) -> None:
        self.images = images
        self._epoch = lru_cache(maxsize=4)(lambda epoch: rng.permutation(seed, "order", epoch, images))

    def indices(self, start: int, count: int) -> Int64[np.ndarray, " {count}"]:
        """Return the image indices of the samples `start` to `start + count - 1`."""
        first, last = start // self.images, (start + count - 1) // self.images
        stretch = np.concatenate([self._epoch(epoch) for epoch in range(first, last + 1)])
        return stretch[start - first * self.images :][:count]


class PartSampler:
    """Samples the images at some positions of a split, in the order in which another sampler samples the part."""

    def __init__(self, part: Sampler, positions: Int64[np.ndarray, " images"]) -> None:
        self._part, self._positions = part, positions

    def indices(self, start: int, count: int) -> Int64[np.ndarray, " {count}"]:
        """Return the image indices of the samples `start` to `start + count - 1`."""
        return self._positions[self._part.indices(start, count)]


class ClassBalancedSampler:
    """In each round, visits all classes in random order and selects the same number of images from each.

    The images of a class are reshuffled once all of them have been sampled. Source: the class-aware sampler of
    Shen et al. 2016, as used by Kang et al. 2020.

    With one image per visit, consecutive samples are of different classes: if a round would start with the class that
    ends the round before it, the first two classes of the round are swapped. With only two classes, this is guaranteed
    for the samples 2k and 2k + 1, which form a round.

    Args:
        labels: Label of each image; an image with label -1 is never sampled.
        classes: Number of classes.
        seed: The run's seed.
        stream: Prefix of the random stream of the class order.
        images_per_visit: Number of consecutive images of a class.
    """

    def __init__(
        self,
        labels: np.ndarray,
        classes: int,
        seed: int,
        stream: str = "",
        images_per_visit: int = IMAGES_PER_VISIT,
    ) -> None:
        by_class = np.argsort(labels, kind="stable")[np.count_nonzero(labels < 0) :]
        self._members = np.split(by_class, np.cumsum(class_counts(labels[labels >= 0], classes))[:-1])
        self._present = np.array([k for k in range(classes) if len(self._members[k])])
        self._seed = seed
        self._images_per_visit = images_per_visit
        self._shuffled_round = lru_cache(maxsize=8)(
            lambda number: self._present[rng.permutation(seed, f"{stream}class order", number, len(self._present))]
        )
        self._round = lru_cache(maxsize=8)(self._order_of_round)
        self._shuffled = lru_cache(maxsize=4 * classes)(self._shuffle)

    def _order_of_round(self, number: int) -> np.ndarray:
        order = self._shuffled_round(number)
        # The swap does not change the last class of a round of three or more classes, so a round depends on the
        # unswapped order of the round before it.
        if self._images_per_visit > 1 or number == 0 or len(order) < 3:
            return order
        if order[0] != self._shuffled_round(number - 1)[-1]:
            return order
        return np.concatenate([order[1::-1], order[2:]])

    def _shuffle(self, k: int, epoch: int) -> np.ndarray:
        members = self._members[k]
        return members[rng.permutation(self._seed, f"class {k}", epoch, len(members))]

    def indices(self, start: int, count: int) -> Int64[np.ndarray, " {count}"]:
        """Return the image indices of the samples `start` to `start + count - 1`."""
        samples = np.arange(start, start + count)
        visits, within = np.divmod(samples, self._images_per_visit)
        rounds, turns = np.divmod(visits, len(self._present))
        chosen = np.empty(count, dtype=np.int64)
        for i in range(count):
            k = int(self._round(int(rounds[i]))[turns[i]])
            epoch, position = divmod(int(rounds[i]) * self._images_per_visit + int(within[i]), len(self._members[k]))
            chosen[i] = self._shuffled(k, epoch)[position]
        return chosen


class PowerSampler:
    """Samples a class with probability proportional to a power of its image count, then one of its images.

    Samples are independent. Power 1/2 corresponds to the square-root sampling of Mahajan et al. 2018.
    """

    def __init__(self, labels: np.ndarray, classes: int, seed: int, power: float) -> None:
        counts = class_counts(labels, classes)
        weights = np.where(counts > 0, counts.astype(np.float64) ** power, 0)
        ends = np.cumsum(weights)
        self._ends = ends / ends[-1]
        self._by_class = np.argsort(labels, kind="stable")
        self._starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
        self._counts = counts
        self._seed = seed

    def indices(self, start: int, count: int) -> Int64[np.ndarray, " {count}"]:
        """Return the image indices of the samples `start` to `start + count - 1`."""
        numbers = rng.uniforms(self._seed, "sampler", start, count, 2)
        k = np.searchsorted(self._ends, numbers[:, 0], side="right")
        within = np.floor(numbers[:, 1] * self._counts[k]).astype(np.int64)
        return self._by_class[self._starts[k] + within]


class GroupBalancedSampler:
    """In each round, visits all groups of classes in random order and selects `IMAGES_PER_VISIT` images from each.

    Within a group, the classes are visited as by `ClassBalancedSampler`. Therefore, all groups are sampled equally
    often, and so are the classes of a group, but a class of a small group is sampled more often than a class of a large
    one.

    Args:
        labels: Label of each image.
        group_of_class: Group of each class. Groups without images are skipped.
        seed: The run's seed.
    """

    def __init__(self, labels: np.ndarray, group_of_class: np.ndarray, seed: int) -> None:
        group_of_image = group_of_class[labels]
        self._groups = [
            ClassBalancedSampler(np.where(group_of_image == g, labels, -1), len(group_of_class), seed, f"group {g} ")
            for g in np.unique(group_of_image)
        ]
        self._round = lru_cache(maxsize=8)(
            lambda number: rng.permutation(seed, "group order", number, len(self._groups))
        )

    def indices(self, start: int, count: int) -> Int64[np.ndarray, " {count}"]:
        """Return the image indices of the samples `start` to `start + count - 1`."""
        visits, within = np.divmod(np.arange(start, start + count), IMAGES_PER_VISIT)
        rounds, turns = np.divmod(visits, len(self._groups))
        orders = np.stack([self._round(number) for number in range(int(rounds[0]), int(rounds[-1]) + 1)])
        group_of_sample = orders[rounds - rounds[0], turns]
        sample_of_group = rounds * IMAGES_PER_VISIT + within
        chosen = np.empty(count, dtype=np.int64)
        for g, group in enumerate(self._groups):
            is_member = group_of_sample == g
            if is_member.any():
                samples = sample_of_group[is_member]
                low, high = int(samples[0]), int(samples[-1]) + 1
                chosen[is_member] = group.indices(low, high - low)[samples - low]
        return chosen


def build_sampler(
    sampler: str, labels: np.ndarray, classes: int, seed: int, shot_groups: np.ndarray | None = None
) -> Sampler:
    """Build the sampler with the given name: `instance`, `class_balanced`, `sqrt` or `group_balanced`.

    Args:
        sampler: Name of the sampler.
        labels: Label of each image.
        classes: Number of classes.
        seed: The run's seed.
        shot_groups: Shot group of each class; required by `group_balanced`.

    Raises:
        ValueError: The name is unknown.
    """
    match sampler:
        case "instance":
            return InstanceSampler(len(labels), seed)
        case "class_balanced":
            return ClassBalancedSampler(labels, classes, seed)
        case "sqrt":
            return PowerSampler(labels, classes, seed, 0.5)
        case "group_balanced":
            assert shot_groups is not None
            return GroupBalancedSampler(labels, shot_groups, seed)
    raise ValueError(f"unknown sampler {sampler!r}; expected instance, class_balanced, sqrt or group_balanced")
