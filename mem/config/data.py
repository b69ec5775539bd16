"""What all data sets share: names, normalisation, storage, splits, the groups of classes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from mem.config.base import Fraction, Name, OpenFraction, Section, Unkeyed

Root = Annotated[str, Unkeyed()]
"""A folder or file on this machine, absolute or relative to the working folder. Where data lie cannot change a
result; what lists and tables hold is part of the key by its digest (see `ImageData.index_files`)."""


class LongTailCut(Section):
    """A balanced training split cut to a long tail, by counts or by the field's exponential rule."""

    counts: tuple[PositiveInt, ...] | None = None
    """Training images per class, in class order (see `orders` of the study)."""
    imbalance: Annotated[float, Field(ge=1)] | None = None
    """Largest class over smallest: class i of K keeps int(largest * imbalance^(-i / (K - 1))) images (Cui et al.
    2019)."""
    largest: PositiveInt | None = None
    """Images of the largest class, with `imbalance`. Without it: as many as the smallest class has, less
    `val_per_class`."""
    seed: NonNegativeInt
    """Seed of the shuffle inside each class that decides which images stay."""
    val_per_class: NonNegativeInt
    """Images per class of the validation split, taken from the training images that the cut discards. With 0, val
    comes from `holdout` or there is none."""

    @model_validator(mode="after")
    def _one_rule(self) -> LongTailCut:
        if (self.counts is None) == (self.imbalance is None):
            raise ValueError("needs either `counts` or `imbalance`")
        if self.largest is not None and self.imbalance is None:
            raise ValueError("`largest` goes with `imbalance`")
        return self


class Holdout(Section):
    """A validation split taken out of the training split, where the data set has none of its own.

    Settings are chosen with it; the chosen ones are then trained on all of train, by the same study without it.
    """

    share: OpenFraction
    """Share of each class's training images, rounded to the nearest; every class keeps at least one for training."""
    seed: NonNegativeInt
    """Seed of the shuffle inside each class that decides which images are held out."""


class SetAside(Section):
    """A test split taken out of a data set that has none, before anything else."""

    per_class: PositiveInt | None = None
    """Images of each class; every class must have at least one more."""
    share: OpenFraction | None = None
    """Share of each class's images, rounded to the nearest; every class keeps at least one for training."""
    seed: NonNegativeInt
    """Seed of the shuffle inside each class that decides which images are set aside."""

    @model_validator(mode="after")
    def _one_rule(self) -> SetAside:
        if (self.per_class is None) == (self.share is None):
            raise ValueError("needs either `per_class` or `share`")
        return self


class ImageData(Section):
    """Base of all data sets."""

    name: Name
    """Name of the data set's folder under `runs/`."""
    pixel_mean: tuple[Fraction, Fraction, Fraction]
    """Mean of each colour channel, with pixels in 0..1; images are normalised with it."""
    pixel_std: tuple[PositiveFloat, PositiveFloat, PositiveFloat]
    """Standard deviation of each colour channel, with pixels in 0..1."""
    storage: Literal["raw", "jpeg", "fit"]
    """How images are kept in the .beton file. `fit`: raw if `size_budget_gb` allows it, else JPEG of the highest
    quality that does."""
    jpeg_quality: Annotated[int, Field(ge=1, le=100)] = 90
    """JPEG quality, where `storage` is `jpeg`."""
    size_budget_gb: PositiveFloat | None = None
    """Size of all splits together, where `storage` is `fit`."""
    short_side: PositiveInt | None = None
    """Images are shrunk until their shorter side has this many pixels; smaller ones stay. Without it all stay."""
    resample: Literal["area", "lanczos"] = "area"
    """How they are shrunk: OpenCV's INTER_AREA, or Pillow's LANCZOS."""
    unreadable: Literal["fail", "skip"] = "fail"
    """What becomes of files that are no whole image: `fail` names them all and stops; `skip` leaves them out, counts
    and records them."""
    holdout: Holdout | None = None
    """How val is taken out of train, where there is none."""

    @model_validator(mode="after")
    def _storage_is_whole(self) -> ImageData:
        if (self.storage == "fit") != (self.size_budget_gb is not None):
            raise ValueError("`storage: fit` and `size_budget_gb` go together")
        return self

    @model_validator(mode="after")
    def _one_val(self) -> ImageData:
        if self.holdout is not None and self.own_val():
            raise ValueError("`holdout` is for data sets without a val split; this one has one")
        return self

    def own_val(self) -> bool | None:
        """Whether there is a val split without `holdout`; none where only the data can tell."""
        return False

    def has_val(self) -> bool | None:
        """Whether there is a val split, of its own or held out; none where only the data can tell."""
        return self.holdout is not None or self.own_val()

    def index_files(self) -> dict[str, Path]:
        """Files that say which images there are; a change of their content is a change of the data set."""
        return {}


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
