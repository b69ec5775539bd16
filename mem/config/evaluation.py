"""Settings of the evaluation on val and test."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveInt

from mem.config.backbones import Backbone, NoBackbone
from mem.config.base import Section

_NAMES = {2: "center crop and its flip", 5: "five crops", 10: "ten crops"}


class Crops(Section):
    """Several crops of each image of val and test, whose logits are averaged.

    The image is resized so that its shorter side has `resize` pixels. A crop has the size of the backbone's input.
    Sizes and positions are those of torchvision's `Resize`, `FiveCrop` and `TenCrop`.
    """

    number: Literal[2, 5, 10]
    """Number of crops: 2 is the center crop and its horizontal flip, 5 the four corners and the center, and 10 these
    five and those of the flipped image. LIFT (Shi et al. 2024) uses 5."""
    resize: PositiveInt
    """Length in pixels of the shorter side of the resized image, at least `backbone.image_size`. LIFT uses 248 for
    crops of 224 pixels."""

    def __str__(self) -> str:
        return f"{_NAMES[self.number]} at {self.resize}"


class Evaluate(Section):
    """Protocol of the evaluation, if it is not one central crop per image (`backbone.center_crop`)."""

    crops: Crops


def check_evaluate(evaluate: Evaluate | None, backbone: Backbone) -> None:
    """Check that crops can be cut from the images.

    Raises:
        ValueError: The dataset consists of features, or the crops are larger than the resized images.
    """
    if evaluate is None:
        return
    if isinstance(backbone, NoBackbone):
        raise ValueError(
            "evaluate.crops: requires images, but the dataset consists of features of one view per image; remove "
            "evaluate, or average the features of your crops before you store them"
        )
    if evaluate.crops.resize < backbone.image_size:
        raise ValueError(
            f"evaluate.crops.resize ({evaluate.crops.resize}) must be at least backbone.image_size "
            f"({backbone.image_size}), the side of a crop"
        )
