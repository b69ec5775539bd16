"""Colour jitter: brightness, contrast and saturation, in an order that is drawn too, as torchvision's `ColorJitter`."""

from __future__ import annotations

from itertools import permutations

import numpy as np
from jaxtyping import Float64

from mem.data.augment import pixel_ops
from mem.data.augment.pixel_ops import Picture

NUMBERS = 4
"""Order, and one factor each."""
_CHANGES = (pixel_ops.brightness, pixel_ops.contrast, pixel_ops.saturation)
_ORDERS = tuple(permutations(range(len(_CHANGES))))


def jittered(
    picture: Picture, uniforms: Float64[np.ndarray, " numbers"], strengths: tuple[float, float, float]
) -> Picture:
    """The picture with each property scaled by a factor from `1 - strength` to `1 + strength`."""
    for change in _ORDERS[int(uniforms[0] * len(_ORDERS))]:
        if strengths[change]:
            factor = 1 + strengths[change] * (2 * float(uniforms[1 + change]) - 1)
            picture = _CHANGES[change](picture, factor)
    return picture
