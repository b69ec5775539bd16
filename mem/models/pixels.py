"""Pixel normalisation and its inverse."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor


@dataclass(frozen=True)
class Pixels:
    """Mean and standard deviation used to normalise a dataset's images."""

    mean: tuple[float, float, float]
    """Mean of each colour channel, for pixels scaled to 0..1."""
    std: tuple[float, float, float]
    dtype: torch.dtype = torch.float32

    def normalise(self, images: UInt8[Tensor, "samples rows columns 3"]) -> Float[Tensor, "samples 3 rows columns"]:
        """Return the images with channels first, scaled to 0..1 and normalised per channel."""
        factor, shift = _factor_and_shift(self, images.device)
        return (images * factor - shift).permute(0, 3, 1, 2).contiguous()

    def restore(self, images: Float[Tensor, "samples 3 rows columns"]) -> UInt8[Tensor, "samples rows columns 3"]:
        """Invert `normalise`. Values outside 0..255 are clipped."""
        std = torch.tensor(self.std, device=images.device, dtype=images.dtype)
        mean = torch.tensor(self.mean, device=images.device, dtype=images.dtype)
        return (255 * (images.permute(0, 2, 3, 1) * std + mean)).round().clamp(0, 255).to(torch.uint8)


@functools.cache
@torch.inference_mode(False)
def _factor_and_shift(pixels: Pixels, device: torch.device) -> tuple[Float[Tensor, " 3"], Float[Tensor, " 3"]]:
    """Return the constants of `normalise`. They are cached, because a copy of new constants would wait for a GPU."""
    factor = torch.tensor([1 / (255 * std) for std in pixels.std], device=device, dtype=pixels.dtype)
    shift = torch.tensor(
        [mean / std for mean, std in zip(pixels.mean, pixels.std, strict=True)], device=device, dtype=pixels.dtype
    )
    return factor, shift
