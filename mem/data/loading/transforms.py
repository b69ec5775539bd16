"""Crops and augmentations for a batch of images, determined by the random numbers of each sample."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64

from mem import rng
from mem.config import Augmentation
from mem.data.augment import blur, color, crop, pixel_ops, rand_augment
from mem.data.augment.pixel_ops import Color, ImageArray
from mem.data.beton.reader import Beton
from mem.data.beton.resize_and_crop import ResizeAndCrop

GREY: Color = (128, 128, 128)
"""Default fill colour for the area outside a transformed image."""

RandomNumbers = Callable[[str, int], Float64[np.ndarray, "samples width"]]
"""Function that maps the name of a random stream and a width to `width` numbers in [0, 1) for each sample."""


@dataclass(frozen=True)
class BatchTransform:
    """Crops and augmentations that the data loader applies to the images of a batch."""

    crops: Int64[np.ndarray, "samples 4"] | ResizeAndCrop
    """Top, left, height and width of each image's crop, which is then resized; or a square of the resized image."""
    mirrored: Bool[np.ndarray, " samples"] | None = None
    """Whether each resized crop is flipped horizontally. None if no crop is flipped, and for `ResizeAndCrop`."""
    change: Callable[[int, ImageArray], None] | None = None
    """Function that modifies the i-th resized and flipped image in place."""


@dataclass(frozen=True)
class Augmenter:
    """Random crop, flip, RandAugment, colour jitter, greyscale conversion and blur."""

    augmentation: Augmentation
    seed: int
    fill: Color = GREY
    """Fill colour for the area outside an image transformed by RandAugment."""

    def of_samples(
        self, images: Beton, indices: Int64[np.ndarray, " samples"], first: int, *, second: bool = False
    ) -> BatchTransform:
        """Return the transform for consecutive training samples, starting at sample `first`.

        With `second`, return the transform of the second view of each sample, whose random numbers are others.
        """
        count = len(indices)

        def numbers(stream: str, width: int) -> np.ndarray:
            return rng.uniforms(self.seed, f"second view {stream}" if second else stream, first, count, width)

        return self._transform(images, indices, numbers)

    def of_view(self, images: Beton, indices: Int64[np.ndarray, " samples"], view: int) -> BatchTransform:
        """Return the transform for an augmented view. Its random numbers depend only on the seed, image and view."""

        def numbers(stream: str, width: int) -> np.ndarray:
            name = f"view {view}" if stream == "augmentation" else f"view {view} {stream}"
            return rng.uniforms_at(self.seed, name, indices, width)

        return self._transform(images, indices, numbers)

    def _transform(
        self, images: Beton, indices: Int64[np.ndarray, " samples"], numbers: RandomNumbers
    ) -> BatchTransform:
        augmentation = self.augmentation
        uniforms = numbers("augmentation", crop.UNIFORMS)
        sizes = images.heights[indices], images.widths[indices]
        crops = crop.random_resized_crops(*sizes, uniforms, augmentation.crop_scale, augmentation.crop_ratio)
        mirrored = crop.flips(uniforms) if augmentation.flip else None
        settings = augmentation.rand_augment
        chosen = None
        if settings:
            width = settings.layers * rand_augment.UNIFORMS_PER_LAYER
            chosen = rand_augment.sample_operations(numbers("rand augment", width), settings)
        jitter = numbers("color jitter", color.UNIFORMS) if any(augmentation.color_jitter) else None
        grey = numbers("grayscale", 1)[:, 0] < augmentation.grayscale if augmentation.grayscale else None
        sigmas = blur.sample_sigmas(numbers("blur", blur.UNIFORMS), augmentation.blur) if augmentation.blur else None

        def change(i: int, image: ImageArray) -> None:
            result = image
            if chosen and settings:
                result = chosen.apply(i, result, settings, self.fill)
            if jitter is not None:
                result = color.jitter_colors(result, jitter[i], augmentation.color_jitter)
            if grey is not None and grey[i]:
                result = pixel_ops.grayscale(result)
            if sigmas is not None and sigmas[i]:
                result = pixel_ops.gaussian_blur(result, float(sigmas[i]))
            if result is not image:
                np.copyto(image, result)

        changes = chosen or any(values is not None for values in (jitter, grey, sigmas))
        return BatchTransform(crops, mirrored, change if changes else None)


def plain_transform(images: Beton, indices: Int64[np.ndarray, " samples"], center_crop: float) -> BatchTransform:
    """Return the evaluation transform, which crops a central square of `center_crop` times the shorter side."""
    return BatchTransform(crop.center_crops(images.heights[indices], images.widths[indices], center_crop))
