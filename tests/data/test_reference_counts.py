"""Published counts of datasets."""

from __future__ import annotations

import pytest

from mem.config import Cifar10, Cifar100, Digits, FashionMnist
from mem.data.datasets.reference_counts import BALANCED, CIFAR_LT, DIGITS_CLASSES, LONG_TAILED, ReferenceCounts


@pytest.mark.parametrize("counts", [*LONG_TAILED.values(), *CIFAR_LT.values()], ids=lambda counts: counts.title)
def test_published_counts_are_consistent(counts: ReferenceCounts):
    if counts.groups is not None:
        assert sum(counts.groups) == counts.classes
    for split, number in counts.per_class.items():
        assert counts.images[split] == number * counts.classes
    assert counts.smallest * counts.classes <= counts.images["train"] <= counts.largest * counts.classes


def test_balanced_data_sets_have_the_classes_of_their_settings():
    settings = {"fashion_mnist": FashionMnist, "cifar10": Cifar10, "cifar100": Cifar100}
    assert {source: counts.classes for source, counts in BALANCED.items()} == {
        source: section.CLASSES for source, section in settings.items()
    }
    assert Digits.CLASSES == DIGITS_CLASSES
    for counts in BALANCED.values():
        assert counts.train_per_class * counts.classes == counts.train
