"""Random adjustments of brightness, contrast and saturation in random order, as in torchvision's `ColorJitter`."""

from __future__ import annotations

from itertools import permutations

import numpy as np
from jaxtyping import Float64

from mem.data.augment import pixel_ops
from mem.data.augment.pixel_ops import ImageArray

UNIFORMS = 4
"""Number of uniform random numbers per sample: one for the order of the adjustments, and one for each factor."""
_ADJUSTMENTS = (pixel_ops.adjust_brightness, pixel_ops.adjust_contrast, pixel_ops.adjust_saturation)
_SEQUENCES = tuple(permutations(range(len(_ADJUSTMENTS))))


def jitter_colors(
    image: ImageArray, uniforms: Float64[np.ndarray, " numbers"], strengths: tuple[float, float, float]
) -> ImageArray:
    """Adjust brightness, contrast and saturation in random order.

    The factor of each adjustment is between `1 - strength` and `1 + strength`.
    """
    for adjustment in _SEQUENCES[int(uniforms[0] * len(_SEQUENCES))]:
        if strengths[adjustment]:
            factor = 1 + strengths[adjustment] * (2 * float(uniforms[1 + adjustment]) - 1)
            image = _ADJUSTMENTS[adjustment](image, factor)
    return image
