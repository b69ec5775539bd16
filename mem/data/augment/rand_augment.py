"""RandAugment (Cubuk et al. 2020) as in timm: `rand-m9-mstd0.5-inc1` from the MAE finetuning recipe, and variants.

Source: timm 1.0.31, timm/data/auto_augment.py. Each layer samples one of fifteen operations and applies it with a given
probability. The magnitude is sampled from a normal distribution and clipped to the range 0 to 10.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64
from scipy.special import ndtri

from mem.config import RandAugment
from mem.data.augment import pixel_ops as ops
from mem.data.augment.pixel_ops import Color, ImageArray

UNIFORMS_PER_LAYER = 4
"""Number of uniform random numbers per sample per layer: operation, whether to apply it, magnitude, and sign."""
_MAX_MAGNITUDE = 10
"""Magnitude at which operations have full strength."""


@dataclass(frozen=True)
class Strength:
    """Strength and direction of an operation."""

    level: float
    """Strength, from 0 to 1: the magnitude divided by the maximum magnitude."""
    sign: float
    """Direction of operations that have two directions: 1 or -1."""
    increasing: bool
    """Whether the strength of all operations increases with the level."""
    fill: Color
    """Fill colour for the area outside the transformed image."""

    @property
    def factor(self) -> float:
        """Factor for operations that blend the image with a simpler one. A factor of 1 leaves the image unchanged."""
        return max(0.1, 1 + self.sign * 0.9 * self.level) if self.increasing else 0.1 + 1.8 * self.level

    def steps(self, count: int) -> int:
        """Scale the level to an integer from 0 to `count`. If `increasing`, subtract the integer from `count`."""
        step = int(self.level * count)
        return count - step if self.increasing else step


Operation = Callable[[ImageArray, Strength], ImageArray]

OPERATIONS: dict[str, Operation] = {
    "AutoContrast": lambda image, _: ops.auto_contrast(image),
    "Equalize": lambda image, _: ops.equalize(image),
    "Invert": lambda image, _: ops.invert(image),
    "Rotate": lambda image, s: ops.rotate(image, s.sign * 30 * s.level, s.fill),
    "Posterize": lambda image, s: ops.posterize(image, s.steps(4)),
    "Solarize": lambda image, s: ops.solarize(image, s.steps(256)),
    "SolarizeAdd": lambda image, s: ops.solarize_add(image, int(s.level * 110)),
    "Color": lambda image, s: ops.adjust_saturation(image, s.factor),
    "Contrast": lambda image, s: ops.adjust_contrast(image, s.factor),
    "Brightness": lambda image, s: ops.adjust_brightness(image, s.factor),
    "Sharpness": lambda image, s: ops.adjust_sharpness(image, s.factor),
    "ShearX": lambda image, s: ops.shear(image, s.sign * 0.3 * s.level, 0, s.fill),
    "ShearY": lambda image, s: ops.shear(image, 0, s.sign * 0.3 * s.level, s.fill),
    "TranslateX": lambda image, s: ops.translate(image, s.sign * 0.45 * s.level * image.shape[1], 0, s.fill),
    "TranslateY": lambda image, s: ops.translate(image, 0, s.sign * 0.45 * s.level * image.shape[0], s.fill),
}
"""Operations by their timm names, without the suffixes `Increasing` and `Rel`. Sampling selects an operation by its
position in this dictionary."""
_BY_POSITION = tuple(OPERATIONS.values())


@dataclass(frozen=True)
class SampledOperations:
    """Operations that were sampled for each sample, with magnitudes and signs."""

    operations: Int64[np.ndarray, "samples layers"]
    """Positions of the operations in `OPERATIONS`."""
    applied: Bool[np.ndarray, "samples layers"]
    magnitudes: Float64[np.ndarray, "samples layers"]
    """Magnitudes of the operations, from 0 to 10."""
    signs: Float64[np.ndarray, "samples layers"]

    def apply(self, sample: int, image: ImageArray, settings: RandAugment, fill: Color) -> ImageArray:
        """Apply the operations sampled for one sample to its image."""
        for layer in np.flatnonzero(self.applied[sample]):
            level = float(self.magnitudes[sample, layer]) / _MAX_MAGNITUDE
            strength = Strength(level, float(self.signs[sample, layer]), settings.increasing, fill)
            image = _BY_POSITION[self.operations[sample, layer]](image, strength)
        return image


def sample_operations(uniforms: Float64[np.ndarray, "samples numbers"], settings: RandAugment) -> SampledOperations:
    """Sample operations from `UNIFORMS_PER_LAYER` uniform random numbers per sample per layer."""
    numbers = uniforms.reshape(len(uniforms), settings.layers, UNIFORMS_PER_LAYER)
    magnitudes = settings.magnitude + settings.magnitude_std * _normal(numbers[..., 2])
    return SampledOperations(
        operations=np.floor(numbers[..., 0] * len(OPERATIONS)).astype(np.int64),
        applied=numbers[..., 1] < settings.probability,
        magnitudes=np.clip(magnitudes, 0, _MAX_MAGNITUDE),
        signs=np.where(numbers[..., 3] < 0.5, 1.0, -1.0),
    )


def _normal(uniforms: Float64[np.ndarray, "*shape"]) -> Float64[np.ndarray, "*shape"]:
    """Map uniform numbers to standard normal numbers by inverting the normal distribution function.

    The results are finite, even for a uniform number of 0.
    """
    return ndtri(np.maximum(uniforms, 2.0**-54))
