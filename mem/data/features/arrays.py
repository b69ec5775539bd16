"""Validation of user-provided feature arrays, and conversion to a split."""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float32, Int64

from mem.data.features.stored import FeatureSplit
from mem.errors import UserError
from mem.longtail import without_images

Array: TypeAlias = Any
"""A NumPy array, a torch tensor, or anything that `np.asarray` accepts."""
IMAGES_PER_READ = 4096
"""Number of images that are read and processed at once."""


def in_memory_split(features: Array, labels: Array, name: str, like: FeatureSplit | None = None) -> FeatureSplit:
    """Create a split with one view from features in memory.

    Args:
        features: Array of shape (images, width), or (images, 1 + tokens, width) with the pooled feature first.
        labels: Integers from 0, of shape (images,).
        name: Name of the split in messages.
        like: A split of features from the same backbone. The width and the number of tokens must match.

    Raises:
        UserError: Features or labels are invalid; see `check_features` and `checked_labels`.
    """
    checked = as_features(features, name)
    split = _as_split(checked, checked_labels(as_numpy(labels), len(checked), name))
    if like is not None:
        require_same_shape(split, like, name)
    return split


def _as_split(
    features: Float32[np.ndarray, "images *sequence width"], labels: Int64[np.ndarray, " images"]
) -> FeatureSplit:
    if features.ndim == 2:
        return FeatureSplit(features[None], None, labels)
    return FeatureSplit(features[None, :, 0], features[None, :, 1:], labels)


def as_features(features: Array, name: str) -> Float32[np.ndarray, "images *sequence width"]:
    """Validate features and return them as a contiguous float32 array.

    Raises:
        UserError: Features are invalid; see `check_features`.
    """
    array = as_numpy(features)
    check_features(array, name)
    return np.ascontiguousarray(array, dtype=np.float32)


def as_numpy(values: Array) -> np.ndarray:
    """Convert any array to a NumPy array. Tensors may be on a GPU. bfloat16 becomes float32."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        return (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    return np.asarray(values)


@runtime_checkable
class SliceableArray(Protocol):
    """An array that can be read in slices along its first dimension."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""
        ...

    def __getitem__(self, part: slice, /) -> np.ndarray: ...


def check_shape(shape: tuple[int, ...], name: str) -> None:
    """Check that the shape of a feature array is valid.

    Raises:
        UserError: The number of dimensions is wrong, or there are no images.
    """
    if len(shape) not in (2, 3) or 0 in shape[1:]:
        raise UserError(
            f"{name}: features have shape {shape}; expected (images, width), or (images, 1 + tokens, width) with the "
            "pooled feature first. Reshape them."
        )
    if not shape[0]:
        raise UserError(f"{name}: the split has no images. Omit splits without images.")


def check_features(features: SliceableArray, name: str) -> None:
    """Check that an array contains valid features.

    Raises:
        UserError: The shape is invalid, the values are not floats, or values are not finite in float32.
    """
    check_shape(features.shape, name)
    for start in range(0, features.shape[0], IMAGES_PER_READ):
        part = features[start : start + IMAGES_PER_READ]
        if not np.issubdtype(part.dtype, np.floating):
            raise UserError(
                f"{name}: features are of type {part.dtype}; expected float32, float16 or float64. Convert them."
            )
        with np.errstate(over="ignore"):
            finite = np.isfinite(part.astype(np.float32, copy=False)).reshape(len(part), -1).all(axis=1)
        if not finite.all():
            image = start + int(np.flatnonzero(~finite)[0])
            raise UserError(
                f"{name}: the features of image {image} (counted from 0) contain values that are not finite in "
                "float32. Recompute them or remove the image."
            )


def checked_labels(labels: np.ndarray, images: int, name: str) -> Int64[np.ndarray, " images"]:
    """Validate labels and return them as int64.

    Raises:
        UserError: The shape is not (images,), or labels are negative or not integers.
    """
    if labels.shape != (images,):
        raise UserError(
            f"{name}: there are features of {images:,} images, but labels of shape {labels.shape}; expected one label "
            f"per image, shape ({images},). Provide features and labels of the same images in the same order."
        )
    if not np.issubdtype(labels.dtype, np.integer):
        raise UserError(f"{name}: labels are of type {labels.dtype}; expected integers. Number the classes from 0.")
    if labels.min() < 0:
        raise UserError(
            f"{name}: image {int(labels.argmin())} has label {labels.min()}; expected 0 or more. Number the classes "
            "from 0."
        )
    return labels.astype(np.int64)


def require_same_shape(split: FeatureSplit, like: FeatureSplit, name: str) -> None:
    """Check that a split has features of the same shape as the training features.

    Raises:
        UserError: The width or the number of tokens differs.
    """

    def shape(one: FeatureSplit) -> tuple[int, ...]:
        return one.shape(tokens=one.tokens is not None)

    if shape(split) != shape(like):
        raise UserError(
            f"{name}: features have shape {shape(split)} per image, but train has shape {shape(like)}. Compute the "
            "features of all splits with the same backbone."
        )


def require_every_class(counts: Int64[np.ndarray, " classes"], name: str = "train") -> None:
    """Check that every class has training images.

    Raises:
        UserError: A class has no training images. The message lists all such classes.
    """
    if problem := without_images(counts):
        which = "these classes" if np.count_nonzero(counts == 0) > 1 else "the class"
        raise UserError(
            f"{name}: {problem}. Add images, or remove {which} and number the remaining classes from 0 without gaps."
        )


def require_known_labels(labels: np.ndarray, classes: int, name: str) -> None:
    """Check that all labels are classes of the training split.

    Raises:
        UserError: A label is not a class of the training split.
    """
    if labels.max(initial=0) >= classes:
        raise UserError(
            f"{name}: image {int(labels.argmax())} has label {labels.max()}, but train has {classes} classes (0 to "
            f"{classes - 1}). Correct the label or remove the image."
        )
