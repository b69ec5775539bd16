"""What is known of the published data sets, to tell a wrong or half a download from the right one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class ReferenceCounts:
    """Totals of a published data set. What is not known is left out."""

    title: str
    images: Mapping[str, int]
    """Images of each split (`train`, `val`, `test`); a split that the set does not have has 0."""
    classes: int
    largest: int
    """Training images of the most frequent class."""
    smallest: int
    """Training images of the rarest class."""
    groups: tuple[int, int, int] | None = None
    """Classes with more than 100, 20 to 100, and fewer than 20 training images."""
    per_class: Mapping[str, int] = field(default_factory=dict)
    """Images of every class, in splits where all classes have equally many."""


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
CIFAR_LT: Mapping[tuple[int, float], ReferenceCounts] = {
    (classes, imbalance): ReferenceCounts(
        title=f"CIFAR-{classes}-LT at imbalance {imbalance} (Cui et al. 2019)",
        images={"train": train, "test": 10_000},
        classes=classes,
        largest=50_000 // classes,
        smallest=50_000 // classes // imbalance,
        groups=groups,
        per_class={"test": 10_000 // classes},
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
"""By number of classes and imbalance; the cut of the whole training split, with nothing kept for val. Val is left out,
for it is the user's choice."""
