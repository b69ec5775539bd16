"""Backbones."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from mem.config.base import Name, Section


class VisionTransformer(Section):
    """A ViT (Dosovitskiy et al. 2021) with a class token; timm's module, with timm's key names."""

    name: Name
    """Name of the backbone's folder under `runs/<dataset>/`."""
    kind: Literal["vit"]
    image_size: PositiveInt
    """Side of the square input, in pixels."""
    patch_size: PositiveInt
    """Side of a patch, in pixels."""
    width: PositiveInt
    """Dimension of a token."""
    depth: PositiveInt
    """Number of transformer blocks."""
    heads: PositiveInt
    """Attention heads of a block."""
    center_crop: Annotated[float, Field(gt=0, le=1)]
    """Side of the square that evaluation sees, as a share of the image's shorter side (224 / 256 for ImageNet)."""

    @model_validator(mode="after")
    def _fits(self) -> VisionTransformer:
        if self.image_size % self.patch_size:
            raise ValueError(f"image_size ({self.image_size}) must be a multiple of patch_size ({self.patch_size})")
        if self.width % self.heads:
            raise ValueError(f"width ({self.width}) must be a multiple of heads ({self.heads})")
        if self.width % 4:
            raise ValueError(f"width ({self.width}) must be a multiple of 4, for sine-cosine positions")
        return self

    @property
    def tokens(self) -> int:
        """Patches of an image, without the class token."""
        return (self.image_size // self.patch_size) ** 2
