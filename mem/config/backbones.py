"""Backbones."""

from __future__ import annotations

import difflib
import math
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator

from mem.config.base import Name, Section, Unkeyed


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


class ConvMae(Section):
    """ConvMAE's encoder (Gao et al. 2022): two stages of convolution blocks, then one of transformer blocks.

    It has no class token. Key names are those of Alpha-VL/ConvMAE.
    """

    name: Name
    """Name of the backbone's folder under `runs/<dataset>/`."""
    kind: Literal["convmae"]
    image_size: PositiveInt
    """Side of the square input, in pixels."""
    patch_sizes: tuple[PositiveInt, PositiveInt, PositiveInt]
    """By how much each stage's embedding shrinks the sides of its input; ConvMAE-B: 4, 2, 2."""
    widths: tuple[PositiveInt, PositiveInt, PositiveInt]
    """Dimension of each stage's positions; ConvMAE-B: 256, 384, 768."""
    depths: tuple[PositiveInt, PositiveInt, PositiveInt]
    """Blocks of each stage; ConvMAE-B: 2, 2, 11."""
    heads: PositiveInt
    """Attention heads of a transformer block."""
    mlp_ratios: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = (4.0, 4.0, 4.0)
    """Hidden dimension of each stage's perceptrons, in its widths."""
    center_crop: Annotated[float, Field(gt=0, le=1)]
    """Side of the square that evaluation sees, as a share of the image's shorter side (224 / 256 for ImageNet)."""

    @model_validator(mode="after")
    def _fits(self) -> ConvMae:
        if self.image_size % self.patch_size:
            raise ValueError(
                f"image_size ({self.image_size}) must be a multiple of the product of patch_sizes ({self.patch_size})"
            )
        if self.width % self.heads:
            raise ValueError(f"the last of widths ({self.width}) must be a multiple of heads ({self.heads})")
        if self.width % 4:
            raise ValueError(f"the last of widths ({self.width}) must be a multiple of 4, for sine-cosine positions")
        return self

    @property
    def patch_size(self) -> int:
        """Side of the square of pixels behind a token, in pixels."""
        return math.prod(self.patch_sizes)

    @property
    def width(self) -> int:
        """Dimension of a token."""
        return self.widths[2]

    @property
    def tokens(self) -> int:
        """Tokens of an image."""
        return (self.image_size // self.patch_size) ** 2


class TimmNetwork(Section):
    """Any network of timm; its tokens are the positions that it pools. Without pretraining only."""

    name: Name
    """Name of the backbone's folder under `runs/<dataset>/`."""
    kind: Literal["timm"]
    model: str
    """Timm's name of the architecture: `resnext50_32x4d`, `vit_base_patch14_dinov2`, ..., without a tag of weights."""
    image_size: PositiveInt
    """Side of the square input, in pixels."""
    norm_batch: Annotated[int, Field(ge=2)] | None
    """Consecutive images whose statistics BatchNorm shares in training, on however many GPUs and micro-batches they
    lie; `null` for a network without BatchNorm, and where nothing is finetuned."""
    center_crop: Annotated[float, Field(gt=0, le=1)]
    """Side of the square that evaluation sees, as a share of the image's shorter side (224 / 256 for ImageNet)."""

    @model_validator(mode="after")
    def _is_known(self) -> TimmNetwork:
        import timm  # seconds, which only studies with such a backbone need to wait

        if "." in self.model:
            raise ValueError(f"model ({self.model}) must go without the tag of weights: `{self.model.split('.')[0]}`")
        if not timm.is_model(self.model):
            near = difflib.get_close_matches(self.model, timm.list_models(), n=3)
            raise ValueError(f"timm has no model {self.model}" + (f"; near it are {', '.join(near)}" if near else ""))
        return self


class OwnModule(Section):
    """One's own torch module, used as it comes (`finetune: null`)."""

    name: Name
    """Name of the backbone's folder under `runs/<dataset>/`."""
    kind: Literal["module"]
    module: Annotated[str, Unkeyed()]
    """`path/to/file.py:function`. The function takes nothing and returns a torch.nn.Module, which maps normalised
    images (images, 3, side, side) to pooled features (images, width), or to (images, 1 + tokens, width) with the pooled
    feature first, or to a pair of pooled features and tokens. The file counts by its content."""
    image_size: PositiveInt
    """Side of the square input, in pixels."""
    center_crop: Annotated[float, Field(gt=0, le=1)]
    """Side of the square that evaluation sees, as a share of the image's shorter side (224 / 256 for ImageNet)."""

    @field_validator("module")
    @classmethod
    def _names_both(cls, module: str) -> str:
        file, _, function = module.rpartition(":")
        if not file.endswith(".py") or not function.isidentifier():
            raise ValueError("must be path/to/file.py:function")
        return module

    @property
    def file(self) -> Path:
        """The Python file."""
        return Path(self.module.rpartition(":")[0]).expanduser()

    @property
    def function(self) -> str:
        """Its function."""
        return self.module.rpartition(":")[2]


class NoBackbone(Section):
    """Whatever made the features that lie in files (`dataset.source: features`)."""

    name: Name
    """Name of the folder under `runs/<dataset>/`: who made the features."""
    kind: Literal["none"]


ImageBackbone = VisionTransformer | ConvMae | TimmNetwork | OwnModule
"""What images go through."""
Backbone = Annotated[ImageBackbone | NoBackbone, Field(discriminator="kind")]
"""Any backbone; `kind` says which, and `mem.models.backbones.build` makes it."""
