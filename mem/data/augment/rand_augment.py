"""RandAugment (Cubuk et al. 2020) as timm has it: `rand-m9-mstd0.5-inc1` of MAE's finetuning recipe, and relatives.

timm 1.0.31, timm/data/auto_augment.py: fifteen operations; each layer draws one of them, applies it with a
probability of its own, and draws how strongly from a normal distribution, cut to 0..10.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64
from scipy.special import ndtri

from mem.config import RandAugment
from mem.data.augment import pixel_ops as ops
from mem.data.augment.pixel_ops import Color, Picture

NUMBERS_PER_LAYER = 4
"""Operation, whether it is applied, how strongly, in which direction."""
_LARGEST = 10
"""Magnitude that is the full strength."""


@dataclass(frozen=True)
class Strength:
    """How an operation is applied."""

    level: float
    """0 to 1."""
    sign: float
    """1 or -1: which of two opposite directions."""
    increasing: bool
    """Whether a higher level always changes the picture more."""
    fill: Color
    """Colour of places that lie outside the picture."""

    @property
    def factor(self) -> float:
        """Of the operations that blend the picture with a plainer one; 1 changes nothing."""
        return max(0.1, 1 + self.sign * 0.9 * self.level) if self.increasing else 0.1 + 1.8 * self.level

    def steps(self, count: int) -> int:
        """The level as one of `count` steps, counted from the weak end where that is asked for."""
        step = int(self.level * count)
        return count - step if self.increasing else step


Operation = Callable[[Picture, Strength], Picture]

OPERATIONS: dict[str, Operation] = {
    "AutoContrast": lambda picture, _: ops.auto_contrasted(picture),
    "Equalize": lambda picture, _: ops.equalized(picture),
    "Invert": lambda picture, _: ops.inverted(picture),
    "Rotate": lambda picture, s: ops.rotated(picture, s.sign * 30 * s.level, s.fill),
    "Posterize": lambda picture, s: ops.posterized(picture, s.steps(4)),
    "Solarize": lambda picture, s: ops.solarized(picture, s.steps(256)),
    "SolarizeAdd": lambda picture, s: ops.solarized_by_adding(picture, int(s.level * 110)),
    "Color": lambda picture, s: ops.saturation(picture, s.factor),
    "Contrast": lambda picture, s: ops.contrast(picture, s.factor),
    "Brightness": lambda picture, s: ops.brightness(picture, s.factor),
    "Sharpness": lambda picture, s: ops.sharpness(picture, s.factor),
    "ShearX": lambda picture, s: ops.sheared(picture, s.sign * 0.3 * s.level, 0, s.fill),
    "ShearY": lambda picture, s: ops.sheared(picture, 0, s.sign * 0.3 * s.level, s.fill),
    "TranslateX": lambda picture, s: ops.shifted(picture, s.sign * 0.45 * s.level * picture.shape[1], 0, s.fill),
    "TranslateY": lambda picture, s: ops.shifted(picture, 0, s.sign * 0.45 * s.level * picture.shape[0], s.fill),
}
"""By timm's names, without its endings for the increasing and the relative kind."""
_IN_ORDER = tuple(OPERATIONS.values())


@dataclass(frozen=True)
class Choices:
    """What RandAugment does to some samples."""

    operations: Int64[np.ndarray, "samples layers"]
    """Places in `OPERATIONS`."""
    applied: Bool[np.ndarray, "samples layers"]
    magnitudes: Float64[np.ndarray, "samples layers"]
    """0 to 10."""
    signs: Float64[np.ndarray, "samples layers"]

    def apply(self, sample: int, picture: Picture, settings: RandAugment, fill: Color) -> Picture:
        """The picture of one of the samples, augmented."""
        for layer in np.flatnonzero(self.applied[sample]):
            level = float(self.magnitudes[sample, layer]) / _LARGEST
            strength = Strength(level, float(self.signs[sample, layer]), settings.increasing, fill)
            picture = _IN_ORDER[self.operations[sample, layer]](picture, strength)
        return picture


def choices(uniforms: Float64[np.ndarray, "samples numbers"], settings: RandAugment) -> Choices:
    """What follows from `NUMBERS_PER_LAYER` uniform numbers for each sample and layer."""
    numbers = uniforms.reshape(len(uniforms), settings.layers, NUMBERS_PER_LAYER)
    magnitudes = settings.magnitude + settings.magnitude_std * _normal(numbers[..., 2])
    return Choices(
        operations=np.floor(numbers[..., 0] * len(OPERATIONS)).astype(np.int64),
        applied=numbers[..., 1] < settings.probability,
        magnitudes=np.clip(magnitudes, 0, _LARGEST),
        signs=np.where(numbers[..., 3] < 0.5, 1.0, -1.0),
    )


def _normal(uniforms: Float64[np.ndarray, "*shape"]) -> Float64[np.ndarray, "*shape"]:
    """Normal numbers, by the inverse of their distribution; finite for 0 too."""
    return ndtri(np.maximum(uniforms, 2.0**-54))
