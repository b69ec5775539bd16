"""Functions that read miniatures, compare datasets, and return the error messages for invalid datasets."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mem.data.datasets import ImageSet, ImageSplit, read_dataset
from mem.errors import UserError
from tests.data import miniatures


def read(values: dict[str, Any], order: int = 0) -> ImageSet:
    return read_dataset(miniatures.settings(values), order)


def refusal(values: dict[str, Any]) -> str:
    """Return the error message for an invalid dataset."""
    with pytest.raises(UserError) as error:
        read(values)
    message = str(error.value)
    message.encode()  # raises if the message cannot be printed
    return message


def counts_of(split: ImageSplit, classes: int) -> list[int]:
    return np.bincount(split.labels, minlength=classes).tolist()


def pixels(split: ImageSplit, i: int) -> np.ndarray:
    content = split.read(i)
    return content if isinstance(content, np.ndarray) else np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def assert_same(one: ImageSet, other: ImageSet) -> None:
    """Check that classes, names, labels and the pixels of some images are equal."""
    assert one.classes == other.classes
    for split, found in one.splits.items():
        expected = other.splits[split]
        assert found.names == expected.names, split
        np.testing.assert_array_equal(found.labels, expected.labels)
        for i in range(0, len(found), 7):
            np.testing.assert_array_equal(pixels(found, i), pixels(expected, i))
