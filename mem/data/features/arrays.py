"""Features that somebody else computed, as arrays: what they must be like, and how they become a split."""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float32, Int64

from mem.data.features.files import FeatureSplit
from mem.errors import UserError

Array: TypeAlias = Any
"""A numpy array, a torch tensor, or anything that numpy can make one of."""
CHECKED_AT_ONCE = 4096
"""Images whose features are looked through at a time."""
NAMED = 10
"""A message names so many images or classes."""


def in_memory_split(features: Array, labels: Array, name: str, like: FeatureSplit | None = None) -> FeatureSplit:
    """A split of features that are in memory.

    Args:
        features: (images, width), or (images, 1 + tokens, width) with the pooled feature first.
        labels: (images,), whole numbers from 0.
        name: What the split is called in messages.
        like: A split of the same backbone, with whose sizes this one must agree.

    Raises:
        UserError: As in `check_features` and `checked_labels`.
    """
    found = as_features(features, name)
    split = split_of(found, checked_labels(as_numpy(labels), len(found), name))
    if like is not None:
        require_same_shape(split, like, name)
    return split


def split_of(
    features: Float32[np.ndarray, "images *sequence width"], labels: Int64[np.ndarray, " images"]
) -> FeatureSplit:
    """The split of arrays that were checked; there is one view."""
    if features.ndim == 2:
        return FeatureSplit(features[None], None, labels)
    return FeatureSplit(features[None, :, 0], features[None, :, 1:], labels)


def as_features(features: Array, name: str) -> Float32[np.ndarray, "images *sequence width"]:
    """Features as float32 in memory, checked."""
    found = as_numpy(features)
    check_features(found, name)
    return np.ascontiguousarray(found, dtype=np.float32)


def as_numpy(values: Array) -> np.ndarray:
    """Any array as one of numpy's; torch's may lie on a GPU or be bfloat16."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        return (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    return np.asarray(values)


@runtime_checkable
class SliceableArray(Protocol):
    """An array of which pieces are read."""

    @property
    def shape(self) -> tuple[int, ...]:
        """As of any array."""
        ...

    def __getitem__(self, part: slice, /) -> np.ndarray: ...


def check_shape(shape: tuple[int, ...], name: str) -> None:
    """Refuse what are no features by their shape.

    Raises:
        UserError: Another number of dimensions, or no image.
    """
    if len(shape) not in (2, 3) or 0 in shape[1:]:
        raise UserError(
            f"{name}: features have shape {shape}; expected (images, width), or (images, 1 + tokens, width) with the "
            "pooled feature first"
        )
    if not shape[0]:
        raise UserError(f"{name}: there is no image. Leave a split out that has none")


def check_features(features: SliceableArray, name: str) -> None:
    """Refuse what are no features.

    Raises:
        UserError: As in `check_shape`; or they are no numbers, or not finite.
    """
    check_shape(features.shape, name)
    for start in range(0, features.shape[0], CHECKED_AT_ONCE):
        part = features[start : start + CHECKED_AT_ONCE]
        if not np.issubdtype(part.dtype, np.floating):
            raise UserError(f"{name}: features are of type {part.dtype}; expected float32, float16 or float64")
        with np.errstate(over="ignore"):
            finite = np.isfinite(part.astype(np.float32, copy=False)).reshape(len(part), -1).all(axis=1)
        if not finite.all():
            image = start + int(np.flatnonzero(~finite)[0])
            raise UserError(
                f"{name}: the features of image {image} (from 0) hold numbers that are not finite in float32. "
                "Compute them again, or take the image out"
            )


def checked_labels(labels: np.ndarray, images: int, name: str) -> Int64[np.ndarray, " images"]:
    """Labels as whole numbers, one for each image.

    Raises:
        UserError: There are more or fewer than images, some are negative, or they are no whole numbers.
    """
    if labels.shape != (images,):
        raise UserError(
            f"{name}: there are features of {images:,} images, and labels of shape {labels.shape}; expected one label "
            f"for each image, ({images},)"
        )
    if not np.issubdtype(labels.dtype, np.integer):
        raise UserError(f"{name}: labels are of type {labels.dtype}; expected whole numbers from 0, one for each class")
    if labels.min() < 0:
        raise UserError(f"{name}: image {int(labels.argmin())} has the label {labels.min()}; labels start at 0")
    return labels.astype(np.int64)


def require_same_shape(split: FeatureSplit, like: FeatureSplit, name: str) -> None:
    """Refuse features of another backbone than the training features'.

    Raises:
        UserError: Width or number of tokens differ.
    """

    def shape(one: FeatureSplit) -> tuple[int, ...]:
        return one.shape(tokens=one.tokens is not None)

    if shape(split) != shape(like):
        raise UserError(
            f"{name}: features of an image have shape {shape(split)}, those of training {shape(like)}. Both must come "
            "from the same backbone"
        )


def require_every_class(counts: Int64[np.ndarray, " classes"], name: str = "train") -> None:
    """Refuse a class that no training image shows.

    Raises:
        UserError: There is one; says which.
    """
    empty = np.flatnonzero(counts == 0)
    if len(empty):
        more = f" and {len(empty) - NAMED:,} more" if len(empty) > NAMED else ""
        raise UserError(
            f"{name}: {len(empty):,} of {len(counts):,} classes have no training image: "
            f"{', '.join(map(str, empty[:NAMED].tolist()))}{more}. A class cannot be learned from nothing: add images, "
            "or take it out and number the others from 0 without gaps"
        )


def require_known_labels(labels: np.ndarray, classes: int, name: str) -> None:
    """Refuse a label beyond the classes.

    Raises:
        UserError: There is one.
    """
    if labels.max(initial=0) >= classes:
        raise UserError(
            f"{name}: image {int(labels.argmax())} has the label {labels.max()}, and training has {classes} classes, "
            f"0 to {classes - 1}"
        )
