"""Number and stored size of images that are not converted yet, determined from their lists or folders and a sample."""

from __future__ import annotations

import time

import numpy as np

from mem.config import Folder, Glyphs, ImageData, Lists, Table
from mem.data.beton.encoding import Encoding, encode
from mem.data.codecs.decode import Unreadable
from mem.data.datasets import ImageSet, read_unchecked
from mem.errors import UserError

SAMPLED_IMAGES = 64
"""Number of images that are encoded to measure their stored size."""
SAMPLE_SECONDS = 5.0
"""Time limit for measuring the sample."""


def read_source(dataset: ImageData, order: int) -> ImageSet:
    """Read the lists, table, folders or fonts of a dataset that has no published number of images.

    Raises:
        UserError: They cannot be read. The message names `--images`, which specifies the numbers instead.
    """
    assert isinstance(dataset, Folder | Glyphs | Lists | Table)
    try:
        return read_unchecked(dataset, order)
    except UserError as error:
        raise UserError(
            f"{error}\nTherefore, the images of `{dataset.source}` cannot be counted. Correct the dataset section, or "
            "specify the numbers with --images train=N val=N test=N classes=N."
        ) from None


def stored_image_bytes(images: ImageSet, dataset: ImageData) -> tuple[float, int] | None:
    """Return the mean number of bytes of a stored image, and the number of encoded images.

    With `storage: fit`, the size is that of raw pixels. Unreadable images are skipped. Returns None if no image of the
    sample can be read.
    """
    storage = "jpeg" if dataset.storage == "jpeg" else "raw"
    encoding = Encoding(storage, dataset.jpeg_quality, dataset.short_side, dataset.resample)
    splits = [split for split in images.splits.values() if len(split)]
    starts = np.cumsum([0, *map(len, splits)])
    sample = np.unique(np.linspace(0, starts[-1] - 1, SAMPLED_IMAGES).astype(np.int64))
    sizes: list[int] = []
    deadline = time.monotonic() + SAMPLE_SECONDS
    # The order is random, so that the sample still covers all splits and classes if the time is over.
    for i in np.random.default_rng(0).permutation(sample).tolist():
        if sizes and time.monotonic() > deadline:
            break
        number = int(np.searchsorted(starts, i, side="right")) - 1
        try:
            content = encode(splits[number].read(i - int(starts[number])), encoding).content
        except (OSError, Unreadable):
            continue
        sizes.append(len(content))
    return (float(np.mean(sizes)), len(sizes)) if sizes else None
