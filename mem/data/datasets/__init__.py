"""Readers: one file per data set, each from its files on disk to an `ImageSet`."""

from __future__ import annotations

from mem.config import Digits, FashionMnist
from mem.data.datasets.base import ImageSet, Split
from mem.data.datasets.digits import read_digits
from mem.data.datasets.fashion_mnist import read_fashion_mnist

__all__ = ["ImageSet", "Split", "read_dataset"]


def read_dataset(settings: Digits | FashionMnist, order: int) -> ImageSet:
    """Read the data set that the settings describe, with its classes in the given order along the tail.

    Raises:
        UserError: The files are missing or wrong, or a class has too few images.
    """
    match settings:
        case Digits():
            images = read_digits(settings, order)
        case FashionMnist():
            images = read_fashion_mnist(settings, order)
    images.prove_disjoint()
    return images
