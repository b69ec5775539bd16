"""Backbone settings."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator

from mem.config.base import Name, Section, Unkeyed
from mem.config.timm_names import check_architecture

CenterCrop = Annotated[float, Field(gt=0, le=1), Unkeyed("pretrain", "finetune")]
"""Share of the image's shorter side. Training uses random crops, so the keys of training runs do not contain it, except
for finetuning that starts from class means (`CENTER_CROP` in mem/runs/keys.py)."""


class VisionTransformer(Section):
    """timm's Vision Transformer (Dosovitskiy et al. 2021) with a class token and timm's parameter names."""

    name: Name
    """Name of the backbone's folder under `runs/<dataset>/`."""
    kind: Literal["vit"]
    image_size: PositiveInt
    """Side of the square input in pixels."""
    patch_size: PositiveInt
    """Side of a patch in pixels."""
    width: PositiveInt
    """Dimension of a token."""
    depth: PositiveInt
    """Number of transformer blocks."""
    heads: PositiveInt
    """Attention heads per block."""
    center_crop: CenterCrop
    """Side of the square center crop in evaluation, as a share of the image's shorter side (224 / 256 for ImageNet)."""

    @model_validator(mode="after")
    def _fits(self) -> VisionTransformer:
        if self.image_size % self.patch_size:
            raise ValueError(f"image_size ({self.image_size}) must be a multiple of patch_size ({self.patch_size})")
        if self.width % self.heads:
            raise ValueError(f"width ({self.width}) must be a multiple of heads ({self.heads})")
        if self.width % 4:
            raise ValueError(f"width ({self.width}) must be a multiple of 4 (sine-cosine positions)")
        return self

    @property
    def tokens(self) -> int:
        """Number of patches per image, without the class token."""
        return (self.image_size // self.patch_size) ** 2


class ConvMae(Section):
    """ConvMAE encoder (Gao et al. 2022): two stages of convolution blocks, then one stage of transformer blocks.

    The encoder has no class token. Parameter names match the repository Alpha-VL/ConvMAE.
    """

    name: Name
    """Name of the backbone's folder under `runs/<dataset>/`."""
    kind: Literal["convmae"]
    image_size: PositiveInt
    """Side of the square input in pixels."""
    patch_sizes: tuple[PositiveInt, PositiveInt, PositiveInt]
    """Downsampling factor of each stage's patch embedding; ConvMAE-B: 4, 2, 2."""
    widths: tuple[PositiveInt, PositiveInt, PositiveInt]
    """Channels of each stage; ConvMAE-B: 256, 384, 768."""
    depths: tuple[PositiveInt, PositiveInt, PositiveInt]
    """Blocks per stage; ConvMAE-B: 2, 2, 11."""
    heads: PositiveInt
    """Attention heads per transformer block."""
    mlp_ratios: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = (4.0, 4.0, 4.0)
    """Hidden dimension of the MLPs in each stage, as a multiple of the stage's width."""
    center_crop: CenterCrop
    """Side of the square center crop in evaluation, as a share of the image's shorter side (224 / 256 for ImageNet)."""

    @model_validator(mode="after")
    def _fits(self) -> ConvMae:
        if self.image_size % self.patch_size:
            raise ValueError(
                f"image_size ({self.image_size}) must be a multiple of the product of patch_sizes ({self.patch_size})"
            )
        if self.width % self.heads:
            raise ValueError(f"the last value of widths ({self.width}) must be a multiple of heads ({self.heads})")
        if self.width % 4:
            raise ValueError(f"the last value of widths ({self.width}) must be a multiple of 4 (sine-cosine positions)")
        return self

    @property
    def patch_size(self) -> int:
        """Side in pixels of the square that one token represents."""
        return math.prod(self.patch_sizes)

    @property
    def width(self) -> int:
        """Dimension of a token."""
        return self.widths[2]

    @property
    def tokens(self) -> int:
        """Number of tokens per image."""
        return (self.image_size // self.patch_size) ** 2


class TimmNetwork(Section):
    """Any timm network, without pretraining. The tokens are the positions that the network pools over."""

    name: Name
    """Name of the backbone's folder under `runs/<dataset>/`."""
    kind: Literal["timm"]
    model: str
    """timm name of the architecture, for example `resnext50_32x4d` or `vit_base_patch14_dinov2`, without the tag for
    pretrained weights."""
    image_size: PositiveInt
    """Side of the square input in pixels."""
    norm_batch: Annotated[int, Field(ge=2)] | None
    """Number of consecutive images over which BatchNorm computes its training statistics, regardless of the number of
    GPUs and micro-batches. Use `null` for networks without BatchNorm and for studies without finetuning."""
    zero_init_last: bool = True
    """Whether the last normalisation layer of each residual branch starts with the scale 0, which is the default of
    timm's ResNets. `false` is passed to timm, starts with the scale 1 (Kang et al. 2020), and requires a network that
    timm can build this way. It is available only in training from scratch."""
    neck_width: PositiveInt | None = None
    """Width of a fully connected layer with ReLU between the pooling and the linear classifier (Liu et al. 2019). The
    features of this backbone are the outputs of the layer, and its tokens are the outputs for each position. Requires
    finetuning. Default: no such layer."""
    center_crop: CenterCrop
    """Side of the square center crop in evaluation, as a share of the image's shorter side (224 / 256 for ImageNet)."""

    @model_validator(mode="after")
    def _is_known(self) -> TimmNetwork:
        if "." in self.model:
            raise ValueError(f"model ({self.model}) must not contain a weights tag; use `{self.model.split('.')[0]}`")
        check_architecture(self.model)
        return self


class CustomModule(Section):
    """User-provided torch module, used without training (`finetune: null`)."""

    name: Name
    """Name of the backbone's folder under `runs/<dataset>/`."""
    kind: Literal["module"]
    module: Annotated[str, Unkeyed()]
    """`path/to/file.py:function`. The function has no arguments and returns a torch.nn.Module. The module maps
    normalised images (images, 3, side, side) to pooled features (images, width), to (images, 1 + tokens, width) with
    the pooled feature first, or to a pair of pooled features and tokens. The digest of the file is part of the run
    key."""
    image_size: PositiveInt
    """Side of the square input in pixels."""
    center_crop: CenterCrop
    """Side of the square center crop in evaluation, as a share of the image's shorter side (224 / 256 for ImageNet)."""

    @field_validator("module")
    @classmethod
    def _names_file_and_function(cls, module: str) -> str:
        file, _, function = module.rpartition(":")
        if not file.endswith(".py") or not function.isidentifier():
            raise ValueError("expected path/to/file.py:function")
        return module

    @property
    def file(self) -> Path:
        """Path of the Python file."""
        return Path(self.module.rpartition(":")[0]).expanduser()

    @property
    def function(self) -> str:
        """Name of the function in the file."""
        return self.module.rpartition(":")[2]


class NoBackbone(Section):
    """Placeholder for the model that computed the features, for `dataset.source: features`."""

    name: Name
    """Name of the folder under `runs/<dataset>/`, for example the name of the model that computed the features."""
    kind: Literal["none"]


ImageBackbone = VisionTransformer | ConvMae | TimmNetwork | CustomModule
"""Any backbone that processes images."""
Backbone = Annotated[ImageBackbone | NoBackbone, Field(discriminator="kind")]
"""Any backbone, selected by `kind` and built by `mem.models.backbones.build`."""
