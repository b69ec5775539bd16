"""Settings for Glyphs-LT: characters rendered from the fonts of a folder, with a long tail of class counts."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from mem.config.base import Unkeyed
from mem.config.data import ImageData


class Glyphs(ImageData):
    """Glyphs-LT: one class per character, one image per character and font. No font family is in two splits.

    Each class order of the study (`orders`) is an independent cut: together with `seed`, it determines which font
    families are in train, val and test, which characters are the classes, and which class has which number of images.
    The digests of the fonts and the version of FreeType are part of the run key.
    """

    source: Literal["glyphs"]
    root: Annotated[str | None, Unkeyed()] = None
    """Folder that contains the fonts (`.otf` and `.ttf` files), at any depth. Default: `data/fonts`, to which `mem data
    fonts` downloads the fonts, if it exists, otherwise the folder of the Debian package `texlive-fonts-extra`."""
    classes: Annotated[int, Field(ge=2)] | None
    """Number of classes. `null`: the published number of the profile or, for `exponential` and `natural`, all
    characters that enough fonts draw."""
    profile: Literal["imagenet_lt", "places_lt", "exponential", "natural"]
    """Numbers of training images per class: the published counts of ImageNet-LT or Places-LT (for fewer classes, evenly
    spaced quantiles of these counts), the exponential rule (see `imbalance`), or `natural`: all training fonts that
    draw the character."""
    largest: PositiveInt | None = None
    """Number of images in the largest class, for `profile: exponential`."""
    imbalance: Annotated[float, Field(ge=1)] | None = None
    """Ratio of the largest class to the smallest, for `profile: exponential`: class i of K has
    int(largest * imbalance^(-i / (K - 1))) images (Cui et al. 2019)."""
    image_size: Annotated[int, Field(ge=8, le=512)]
    """Width and height of an image in pixels."""
    em: Annotated[int, Field(ge=4, le=512)]
    """Size of the fonts (the em square) in pixels. Parts of a glyph that are outside the image are cut off."""
    look_alikes: Literal["keep", "merge"]
    """Characters of different scripts that are drawn alike, such as Latin A, Greek Α and Cyrillic А: `keep` treats them
    as different classes, which only the class frequencies separate; `merge` makes them one class."""
    test_families: PositiveInt
    """Number of font families in the test split."""
    val_families: NonNegativeInt
    """Number of font families in the val split. If 0, the val split is taken from `holdout`, or there is none."""
    test_per_class: PositiveInt
    """Number of test images per class. A character qualifies as a class if the test families have this number of fonts
    that draw it."""
    val_per_class: NonNegativeInt
    """Maximum number of val images per class. 0 if `val_families` is 0."""
    val_minimum: PositiveInt | None = None
    """Minimum number of val images per class. Default: `val_per_class`."""
    unreadable: Literal["fail", "skip"] = "skip"
    """Action for characters that FreeType cannot draw although the font contains them: `skip` omits, counts and records
    them; `fail` lists all of them and stops."""
    seed: NonNegativeInt
    """Seed for the choice of families, classes and images, together with the class order."""

    @model_validator(mode="after")
    def _val_is_consistent(self) -> Glyphs:
        if (self.val_families == 0) != (self.val_per_class == 0):
            raise ValueError("val_families and val_per_class: set both to 0, or neither")
        if self.val_minimum is not None and self.val_minimum > self.val_per_class:
            raise ValueError(f"val_minimum ({self.val_minimum}) must not exceed val_per_class ({self.val_per_class})")
        return self

    @model_validator(mode="after")
    def _exponential_is_complete(self) -> Glyphs:
        given = {"largest": self.largest, "imbalance": self.imbalance}
        wrong = [name for name, value in given.items() if (value is None) == (self.profile == "exponential")]
        if wrong:
            verb = "is" if len(wrong) == 1 else "are"
            needed = "required for" if self.profile == "exponential" else "only for"
            raise ValueError(f"{' and '.join(wrong)}: {verb} {needed} `profile: exponential`")
        return self

    def has_val_without_holdout(self) -> bool:
        """Whether there is a val split without the setting `holdout`."""
        return self.val_per_class > 0
