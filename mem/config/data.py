"""Data sets, and the groups of their classes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, field_validator, model_validator

from mem.config.base import Fraction, Name, Section, Unkeyed


class LongTailCut(Section):
    """A balanced data set cut to a long tail by explicit counts."""

    name: Name
    """Name of the data set's folder under `runs/`."""
    counts: tuple[PositiveInt, ...]
    """Training images per class, in class order (see `orders` of the study)."""
    cut_seed: NonNegativeInt
    """Seed of the shuffle inside each class that decides which images stay."""
    val_per_class: PositiveInt
    """Images per class of the validation split, taken from the training images that the cut discards."""
    pixel_mean: tuple[Fraction, Fraction, Fraction]
    """Mean of each colour channel, with pixels in 0..1; images are normalised with it."""
    pixel_std: tuple[PositiveFloat, PositiveFloat, PositiveFloat]
    """Standard deviation of each colour channel, with pixels in 0..1."""
    storage: Literal["raw", "jpeg"]
    """How images are kept in the .beton file."""
    jpeg_quality: Annotated[int, Field(ge=1, le=100)] = 90
    """JPEG quality, where `storage` is `jpeg`."""

    @field_validator("counts")
    @classmethod
    def _ten_classes(cls, counts: tuple[int, ...]) -> tuple[int, ...]:
        if len(counts) != 10:
            raise ValueError(f"needs one count for each of the 10 classes, got {len(counts)}")
        return counts


class Digits(LongTailCut):
    """The 1,797 handwritten digits (8 x 8) that ship with scikit-learn."""

    source: Literal["digits"]
    test_per_class: PositiveInt
    """Images per class of the test split, set aside before the cut."""


class FashionMnist(LongTailCut):
    """Fashion-MNIST (Xiao et al. 2017): 60,000 training and 10,000 test images, 28 x 28."""

    source: Literal["fashion_mnist"]
    root: Annotated[str | None, Unkeyed()] = None
    """Folder of the four IDX files. Without it: Debian's `dataset-fashion-mnist`, then torchvision's folder."""


Dataset = Annotated[Digits | FashionMnist, Field(discriminator="source")]


class Shots(Section):
    """Thresholds, both exclusive, of the three groups of classes (the paper's section 4.1)."""

    many_above: PositiveInt = 100
    """Classes with more training images than this are many-shot."""
    few_below: PositiveInt = 20
    """Classes with fewer training images than this are few-shot; the rest is medium-shot."""

    @model_validator(mode="after")
    def _ordered(self) -> Shots:
        if self.few_below > self.many_above + 1:
            raise ValueError(f"few_below ({self.few_below}) must not exceed many_above + 1 ({self.many_above + 1})")
        return self

    def __str__(self) -> str:
        return f"many>{self.many_above} few<{self.few_below}"
