"""Published dataset counts, used to detect wrong downloads and to plan studies before the data are available."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class ReferenceCounts:
    """Counts of a published long-tailed dataset. Unknown counts are omitted."""

    title: str
    images: Mapping[str, int]
    """Number of images in each split (`train`, `val`, `test`); 0 if the dataset does not have the split."""
    classes: int
    largest: int
    """Number of training images in the most frequent class."""
    smallest: int
    """Number of training images in the rarest class."""
    groups: tuple[int, int, int] | None = None
    """Number of classes with more than 100, with 20 to 100, and with fewer than 20 training images."""
    per_class: Mapping[str, int] = field(default_factory=dict)
    """Number of images per class, for splits in which all classes have the same number."""


@dataclass(frozen=True)
class BalancedCounts:
    """Size of a published balanced dataset before its training split is reduced to a long tail."""

    classes: int
    train: int
    """Number of training images."""
    test: int
    """Number of test images."""
    side: int
    """Width and height of every image, in pixels."""

    @property
    def train_per_class(self) -> int:
        """Number of training images per class."""
        return self.train // self.classes


IMAGENET_LT = ReferenceCounts(
    title="ImageNet-LT (Liu et al. 2019)",
    images={"train": 115_846, "val": 20_000, "test": 50_000},
    classes=1000,
    largest=1280,
    smallest=5,
    groups=(385, 479, 136),
    per_class={"val": 20, "test": 50},
)
PLACES_LT = ReferenceCounts(
    title="Places-LT (Liu et al. 2019)",
    images={"train": 62_500, "val": 7_300, "test": 36_500},
    classes=365,
    largest=4980,
    smallest=5,
    groups=(131, 163, 71),
    per_class={"val": 20, "test": 100},
)
INATURALIST_2018 = ReferenceCounts(
    title="iNaturalist 2018 (its official val is the test split)",
    images={"train": 437_513, "val": 0, "test": 24_426},
    classes=8142,
    largest=1000,
    smallest=2,
    groups=(842, 4076, 3224),
    per_class={"test": 3},
)
LONG_TAILED: Mapping[str, ReferenceCounts] = {
    "imagenet_lt": IMAGENET_LT,
    "places_lt": PLACES_LT,
    "inaturalist2018": INATURALIST_2018,
}
"""Datasets that are published with a long tail, by `dataset.source`."""

FASHION_MNIST = BalancedCounts(classes=10, train=60_000, test=10_000, side=28)
CIFAR: Mapping[int, BalancedCounts] = {
    classes: BalancedCounts(classes, train=50_000, test=10_000, side=32) for classes in (10, 100)
}
"""CIFAR-10 and CIFAR-100, by their number of classes."""
BALANCED: Mapping[str, BalancedCounts] = {
    "fashion_mnist": FASHION_MNIST,
    "cifar10": CIFAR[10],
    "cifar100": CIFAR[100],
}
"""Balanced datasets, by `dataset.source`."""
DIGITS_CLASSES = 10
DIGITS_SIDE = 8
"""Width and height of scikit-learn's digit images, in pixels."""

CIFAR_LT: Mapping[tuple[int, float], ReferenceCounts] = {
    (classes, imbalance): ReferenceCounts(
        title=f"CIFAR-{classes}-LT at imbalance {imbalance} (Cui et al. 2019)",
        images={"train": train, "test": CIFAR[classes].test},
        classes=classes,
        largest=CIFAR[classes].train_per_class,
        smallest=CIFAR[classes].train_per_class // imbalance,
        groups=groups,
        per_class={"test": CIFAR[classes].test // classes},
    )
    for classes, imbalance, train, groups in (
        (10, 100, 12_406, None),
        (10, 50, 13_996, None),
        (10, 10, 20_431, None),
        (100, 100, 10_847, (35, 35, 30)),
        (100, 50, 12_608, None),
        (100, 10, 19_573, None),
    )
}
"""CIFAR-LT counts, by number of classes and imbalance factor.

They apply if the long tail is taken from the complete training split and no image is held out for val.
The number of val images is omitted, because users choose it.
"""
