"""Settings shared by all datasets: names, normalisation, storage, splits and shot groups."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, field_validator, model_validator

from mem.config.base import Fraction, Name, OpenFraction, Section, Unkeyed

Root = Annotated[str, Unkeyed()]
"""Folder or file on this machine, absolute or relative to the working folder. The path cannot change a result and is
not part of a key, but the digests of lists and tables are (see `ImageData.index_files`)."""


class LongTailCut(Section):
    """Cut of a balanced training split to a long tail, by class counts or by the usual exponential rule."""

    counts: tuple[PositiveInt, ...] | None = None
    """Number of training images per class, in class order (see the study's `orders`)."""
    imbalance: Annotated[float, Field(ge=1)] | None = None
    """Ratio of the largest class to the smallest: class i of K keeps int(largest * imbalance^(-i / (K - 1))) images
    (Cui et al. 2019)."""
    largest: PositiveInt | None = None
    """Number of images in the largest class; requires `imbalance`. Default: the number of images in the smallest class
    minus `val_per_class`."""
    seed: NonNegativeInt
    """Seed for the shuffle within each class that selects the images to keep."""
    val_per_class: NonNegativeInt
    """Number of images per class in the val split, taken from the training images that the cut discards. If 0, the val
    split is taken from `holdout`, or there is no val split."""

    @model_validator(mode="after")
    def _one_rule(self) -> LongTailCut:
        if (self.counts is None) == (self.imbalance is None):
            raise ValueError("set exactly one of `counts` and `imbalance`")
        if self.largest is not None and self.imbalance is None:
            raise ValueError("`largest` requires `imbalance`")
        return self


class GroupBy(Section):
    """How images are grouped, for example by patient, camera or near-duplicate. A holdout does not divide a group."""

    regex: str | None = None
    """Regular expression with one group in parentheses, which is searched for in the path of each image relative to
    `root`. Images with the same text in the parentheses form a group, for example `^(patient[0-9]+)_`."""
    column: Annotated[str, Field(min_length=1)] | None = None
    """Column of the table (`source: table`) that names the group of each image."""

    @field_validator("regex")
    @classmethod
    def _has_one_group(cls, regex: str | None) -> str | None:
        if regex is None:
            return None
        try:
            groups = re.compile(regex).groups
        except re.error as error:
            raise ValueError(f"`{regex}` is not a valid regular expression: {error}") from None
        if groups != 1:
            raise ValueError(
                f"`{regex}` has {groups} groups in parentheses; expected one, whose text names the group of an image. "
                "Write (?:...) for parentheses that name nothing"
            )
        return regex

    @model_validator(mode="after")
    def _one_rule(self) -> GroupBy:
        if (self.regex is None) == (self.column is None):
            raise ValueError("set exactly one of `regex` and `column`")
        return self


class Holdout(Section):
    """Part of the training split that is held out and used as val, for a dataset without a val split.

    With `dataset.holdout`, nothing is trained on the held-out images. With `selection.holdout`, the study uses them to
    choose settings, and then trains again on all training images.
    """

    share: OpenFraction
    """Share of each class's training images, rounded to the nearest integer. Every class keeps at least one training
    image."""
    seed: NonNegativeInt
    """Seed for the shuffle within each class that selects the images to hold out."""
    group_by: GroupBy | None = None
    """Groups of images that stay together. Default: every image is a group of its own."""


class Selection(Section):
    """How a study chooses settings if its dataset has no val split: on held-out training images, followed by a refit.

    The study has two branches, which share the conversion and pretraining. The branch `select` trains without the
    held-out images and is evaluated on them. The branch `refit` trains on all training images, with the values that the
    branch `select` chose (`taus`), and is evaluated on test.
    """

    holdout: Holdout
    """The training images to hold out."""


class SetAside(Section):
    """Test split taken from the images of a dataset without a test split, before the cut and the holdout."""

    per_class: PositiveInt | None = None
    """Number of test images per class. Every class must have at least one more image."""
    share: OpenFraction | None = None
    """Share of each class's images, rounded to the nearest integer. Every class keeps at least one training image."""
    seed: NonNegativeInt
    """Seed for the shuffle within each class that selects the test images."""

    @model_validator(mode="after")
    def _one_rule(self) -> SetAside:
        if (self.per_class is None) == (self.share is None):
            raise ValueError("set exactly one of `per_class` and `share`")
        return self


class ImageData(Section):
    """Base class of all image datasets."""

    name: Name
    """Name of the dataset's folder under `runs/`."""
    pixel_mean: Annotated[tuple[Fraction, Fraction, Fraction], Unkeyed("convert")]
    """Per-channel mean for normalisation, for pixel values in 0..1."""
    pixel_std: Annotated[tuple[PositiveFloat, PositiveFloat, PositiveFloat], Unkeyed("convert")]
    """Per-channel standard deviation for normalisation, for pixel values in 0..1."""
    storage: Literal["raw", "jpeg", "fit"]
    """Format of the images in the .beton files. `fit` stores raw pixels if they fit into `size_budget_gb`, otherwise
    JPEG at the highest quality that fits."""
    jpeg_quality: Annotated[int, Field(ge=1, le=100)] = 90
    """JPEG quality for `storage: jpeg`."""
    size_budget_gb: PositiveFloat | None = None
    """Maximum total size of all splits for `storage: fit`."""
    short_side: PositiveInt | None = None
    """Length in pixels to which the shorter side of larger images is reduced. Default: images are not resized."""
    resample: Literal["area", "lanczos"] = "area"
    """Resampling method for `short_side`: OpenCV's INTER_AREA or Pillow's LANCZOS."""
    unreadable: Literal["fail", "skip"] = "fail"
    """Action for files that cannot be read as complete images: `fail` lists all of them and stops; `skip` omits, counts
    and records them."""
    holdout: Holdout | None = None
    """Val split taken from the training split, for a dataset without a val split."""
    class_names: Annotated[str | None, Unkeyed()] = None
    """File with the class names, for reports, predictions and text features: one name per line in label order, or a
    name for each class id as JSON or CSV. Its digest is part of the run key. Default: the ids of the dataset, for
    example WordNet ids for ImageNet-LT, which text features replace by names."""

    @model_validator(mode="after")
    def _storage_is_consistent(self) -> ImageData:
        if (self.storage == "fit") != (self.size_budget_gb is not None):
            raise ValueError("`storage: fit` requires `size_budget_gb`, and `size_budget_gb` requires `storage: fit`")
        return self

    @model_validator(mode="after")
    def _one_val(self) -> ImageData:
        if self.holdout is not None and self.has_val_without_holdout():
            raise ValueError(
                "`holdout` is for datasets without a val split, but this one has a val split; remove `holdout`"
            )
        if self.holdout is not None and self.holdout.group_by is not None and self.holdout.group_by.column is not None:
            self.check_group_column(self.holdout.group_by.column)
        return self

    def check_group_column(self, column: str) -> None:
        """Check that the images are listed in a table, which can have a column with groups.

        Raises:
            ValueError: They are not.
        """
        raise ValueError(
            f"holdout.group_by.column: `{column}` is a column of a table, but the source of this dataset is not "
            "`table`. Use `regex`, which is applied to the paths of the images"
        )

    def without_effect(self) -> frozenset[str]:
        """Return the settings of JPEG files and of resizing, unless the images are stored as JPEG or resized."""
        unused = {"jpeg_quality"} if self.storage != "jpeg" else set[str]()
        return frozenset(unused | ({"resample"} if self.short_side is None else set()))

    def has_val_without_holdout(self) -> bool | None:
        """Whether there is a val split without the setting `holdout`; None if this depends on the data."""
        return False

    def has_val(self) -> bool | None:
        """Whether there is a val split, with or without `holdout`; None if this depends on the data."""
        return self.holdout is not None or self.has_val_without_holdout()

    def index_files(self) -> dict[str, Path]:
        """Return the files that list the images or classes. The digests of these files are part of the run key."""
        return {} if self.class_names is None else {"class_names": Path(self.class_names).expanduser()}


class Shots(Section):
    """Exclusive thresholds for the three shot groups (section 4.1 of the paper)."""

    many_above: PositiveInt = 100
    """Classes with more training images than this are many-shot."""
    few_below: PositiveInt = 20
    """Classes with fewer training images than this are few-shot. All other classes are medium-shot."""

    @model_validator(mode="after")
    def _ordered(self) -> Shots:
        if self.few_below > self.many_above + 1:
            raise ValueError(f"few_below ({self.few_below}) must not exceed many_above + 1 ({self.many_above + 1})")
        return self

    def __str__(self) -> str:
        return f"many>{self.many_above} few<{self.few_below}"
