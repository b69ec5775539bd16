"""From bytes to what a model sees."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, UInt8
from torch import Tensor


def normalised(
    images: UInt8[Tensor, "samples height width 3"], mean: Sequence[float], std: Sequence[float]
) -> Float[Tensor, "samples 3 height width"]:
    """Images with channels first, scaled to 0..1 and normalised per channel."""
    factor = torch.tensor([1 / (255 * s) for s in std], device=images.device)
    shift = torch.tensor([m / s for m, s in zip(mean, std, strict=True)], device=images.device)
    return (images * factor - shift).permute(0, 3, 1, 2).contiguous()
