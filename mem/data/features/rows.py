"""Features of a part of the training split, copied from the features of the complete split."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import IO, Any

import numpy as np

from mem import files, longtail
from mem.config import Holdout
from mem.data.features.stored import (
    feature_file,
    open_split,
    read_about,
    read_labels,
    writable_feature_file,
    write_about,
)
from mem.data.split_parts import describe_parts, parts_of_train, require_no_val

_BYTES_PER_COPY = 1 << 26
"""Approximate number of bytes that are in memory at once."""


def copy_parts(source: Path, out: Path, holdout: Holdout) -> dict[str, Any]:
    """Copy the features of the training images, and those of the held-out images as val, to a folder. Test is empty.

    Training images keep all their views; val has only the plain view. The backbone does not run again.

    Args:
        source: Folder with the features of all training images.
        out: Folder for the features of the parts.
        holdout: The images to hold out.

    Returns:
        The numbers of images, for run.json.

    Raises:
        UserError: The features are missing or damaged, there is a val split, or no image would be held out.
    """
    require_no_val(len(read_labels(source, "val")))
    train = open_split(source, "train")
    parts = parts_of_train(train.labels, holdout)
    arrays = {"pooled": train.pooled, **({"tokens": train.tokens} if train.tokens is not None else {})}
    shapes = {kind: array.shape[2:] for kind, array in arrays.items()}
    if train.experts > 1:
        shapes["pooled"] = (train.experts, train.pooled.shape[2] // train.experts)
    for split, positions in parts.items():
        for kind, array in arrays.items():
            views = train.views if split == "train" else 1
            with writable_feature_file(out, split, kind, (views, len(positions), *shapes[kind]), array.dtype) as file:
                _copy(array, positions, file, views)
        files.write_array(feature_file(out, split, "labels"), train.labels[positions])
    about = read_about(source)
    classes = int(train.labels.max()) + 1
    counts = longtail.class_counts(train.labels[parts["train"]], classes)
    write_about(out, {**about, "class_counts": counts.tolist()})
    return describe_parts(train.labels, parts)


def _copy(array: np.ndarray, positions: np.ndarray, file: IO[bytes], views: int) -> None:
    """Write the rows of an array of shape (views, images, ...) to a feature file, some rows at a time."""
    rows = max(1, _BYTES_PER_COPY // max(1, array[:1, :1].nbytes))
    for view in range(views):
        for start in range(0, len(positions), rows):
            file.write(np.ascontiguousarray(array[view, positions[start : start + rows]]).tobytes())
            if isinstance(array.base, mmap.mmap):
                array.base.madvise(mmap.MADV_DONTNEED)  # mapped pages count as memory of the process
