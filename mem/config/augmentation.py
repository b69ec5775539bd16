"""Settings for the augmentation of images."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from mem.config.base import Fraction, Section


class RandAugment(Section):
    """RandAugment (Cubuk et al. 2020) as implemented in timm.

    timm's `rand-m9-mstd0.5-inc1` corresponds to layers 2, magnitude 9, magnitude_std 0.5, increasing true.
    """

    layers: PositiveInt
    """Number of operations that are sampled for each image and applied in sequence."""
    magnitude: Annotated[float, Field(ge=0, le=10)]
    """Mean magnitude of an operation; 10 is the maximum."""
    magnitude_std: NonNegativeFloat
    """Standard deviation of the magnitude, which is clipped to 0..10."""
    increasing: bool
    """Whether a larger magnitude always means a stronger distortion."""
    probability: Fraction = 0.5
    """Probability that a sampled operation is applied."""


class Blur(Section):
    """Gaussian blur of randomly selected images, as in SimCLR (Chen et al. 2020)."""

    probability: Fraction
    """Probability that an image is blurred."""
    sigma: tuple[PositiveFloat, PositiveFloat]
    """Minimum and maximum standard deviation of the Gaussian, in pixels of the resized crop."""

    @model_validator(mode="after")
    def _ordered(self) -> Blur:
        if self.sigma[0] > self.sigma[1]:
            raise ValueError(f"sigma: the minimum must not exceed the maximum, got {list(self.sigma)}")
        return self


class Augmentation(Section):
    """Random resized crop and flip, optionally followed by RandAugment, changes of colour, blur and random erasing."""

    crop_scale: tuple[PositiveFloat, PositiveFloat]
    """Minimum and maximum share of the image area that a crop covers."""
    crop_ratio: tuple[PositiveFloat, PositiveFloat] = (3 / 4, 4 / 3)
    """Minimum and maximum aspect ratio (width / height) of a crop."""
    flip: bool
    """Whether images are flipped horizontally with probability 0.5."""
    rand_augment: RandAugment | None = None
    """RandAugment settings. Default: RandAugment is off."""
    color_jitter: tuple[Fraction, Fraction, Fraction] = (0, 0, 0)
    """Strength of brightness, contrast and saturation jitter: each is scaled by 1 - value to 1 + value."""
    grayscale: Fraction = 0
    """Probability that an image becomes grey, after the colour jitter."""
    blur: Blur | None = None
    """Gaussian blur, after the changes of colour. Default: no blur."""
    erasing: Fraction = 0
    """Probability of random erasing (Zhong et al. 2020). It is available only in finetuning."""

    @model_validator(mode="after")
    def _ordered(self) -> Augmentation:
        for name, (low, high) in (("crop_scale", self.crop_scale), ("crop_ratio", self.crop_ratio)):
            if low > high:
                raise ValueError(f"{name}: the minimum must not exceed the maximum, got [{low}, {high}]")
        if self.crop_scale[1] > 1:
            raise ValueError(f"crop_scale must not exceed 1, got {self.crop_scale[1]}")
        return self


def check_without_erasing(augmentation: Augmentation | None) -> None:
    """Check that an augmentation outside finetuning has no random erasing.

    Raises:
        ValueError: It has.
    """
    if augmentation is not None and augmentation.erasing:
        raise ValueError("augmentation.erasing: is available only in finetuning; set it to 0")
