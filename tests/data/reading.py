"""What a reader makes of a miniature, in a form that tests compare."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

from mem.data.datasets import ImageSet, ImageSplit, read_dataset
from tests.data import miniatures


def read(values: dict[str, Any], order: int = 0) -> ImageSet:
    return read_dataset(miniatures.settings(values), order)


def counts_of(split: ImageSplit, classes: int) -> list[int]:
    return np.bincount(split.labels, minlength=classes).tolist()


def pixels(split: ImageSplit, i: int) -> np.ndarray:
    content = split.read(i)
    return content if isinstance(content, np.ndarray) else np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def same(one: ImageSet, other: ImageSet) -> None:
    """Names, labels, order and the content of images are equal."""
    assert one.classes == other.classes
    for split, found in one.splits.items():
        expected = other.splits[split]
        assert found.names == expected.names, split
        np.testing.assert_array_equal(found.labels, expected.labels)
        for i in range(0, len(found), 7):
            np.testing.assert_array_equal(pixels(found, i), pixels(expected, i))
