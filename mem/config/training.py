"""How backbones are trained and what their features are."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from mem.config.base import OpenFraction, Section


class Augmentation(Section):
    """Random resized crop and flip."""

    crop_scale: tuple[PositiveFloat, PositiveFloat]
    """Smallest and largest share of the image's area that a crop covers."""
    crop_ratio: tuple[PositiveFloat, PositiveFloat] = (3 / 4, 4 / 3)
    """Smallest and largest aspect ratio (width / height) of a crop."""
    flip: bool
    """Whether half of the images are mirrored left to right."""

    @model_validator(mode="after")
    def _ordered(self) -> Augmentation:
        for name, (low, high) in (("crop_scale", self.crop_scale), ("crop_ratio", self.crop_ratio)):
            if low > high:
                raise ValueError(f"{name} must go from small to large, got [{low}, {high}]")
        if self.crop_scale[1] > 1:
            raise ValueError(f"crop_scale must not exceed 1, got {self.crop_scale[1]}")
        return self


class Training(Section):
    """What every training has in common: warm-up, then a cosine to `min_lr`, over full batches."""

    epochs: PositiveFloat
    """Passes over the training set."""
    warmup_epochs: NonNegativeFloat
    """Passes during which the learning rate rises linearly from 0."""
    global_batch: PositiveInt
    """Images per optimizer step, over all ranks and micro-batches."""
    base_lr: PositiveFloat
    """Learning rate per 256 images; training uses `lr`."""
    min_lr: NonNegativeFloat
    """Where the cosine ends."""
    betas: tuple[OpenFraction, OpenFraction]
    """AdamW's decay rates."""
    weight_decay: NonNegativeFloat
    """AdamW's decoupled weight decay; none on norms, biases, tokens and positions."""
    clip_grad: PositiveFloat | None = None
    """Largest L2 norm of the gradient; without it gradients are not clipped."""
    precision: Literal["fp32", "bf16"]
    """`bf16` runs the forward pass under autocast; weights and optimizer stay float32."""

    @model_validator(mode="after")
    def _warmup_fits(self) -> Training:
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs ({self.warmup_epochs:g}) must be smaller than epochs ({self.epochs:g})")
        return self

    @property
    def lr(self) -> float:
        """Linear scaling rule (Goyal et al. 2017)."""
        return self.base_lr * self.global_batch / 256


class Decoder(Section):
    """The light decoder of a masked autoencoder."""

    width: PositiveInt
    """Dimension of a token."""
    depth: PositiveInt
    """Number of transformer blocks."""
    heads: PositiveInt
    """Attention heads of a block."""

    @model_validator(mode="after")
    def _fits(self) -> Decoder:
        if self.width % self.heads or self.width % 4:
            raise ValueError(f"width ({self.width}) must be a multiple of heads ({self.heads}) and of 4")
        return self


class Pretrain(Training):
    """Masked-autoencoder pretraining (He et al. 2022)."""

    mask_ratio: OpenFraction
    """Share of the patches that the encoder does not see."""
    norm_pix_loss: bool
    """Whether each patch of the target is normalised by its own mean and variance."""
    decoder: Decoder
    augmentation: Augmentation


class Finetune(Training):
    """Supervised finetuning of the whole backbone with cross-entropy: the paper's CE row."""

    layer_decay: Annotated[float, Field(gt=0, le=1)]
    """Each layer learns at this factor of the layer above it (Clark et al. 2020)."""
    drop_path: Annotated[float, Field(ge=0, lt=1)]
    """Stochastic depth (Huang et al. 2016): rate of the last block, rising linearly from 0."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]
    augmentation: Augmentation
    validate_every_epochs: PositiveFloat
    """How often the accuracy on val is measured, for the curves; nothing is selected by it."""


class Features(Section):
    """Features of the frozen backbone, computed once per view."""

    views: NonNegativeInt
    """Augmented views of the training split beside the plain one."""
    augmentation: Augmentation | None = None
    """How the augmented views are drawn; needed where `views` is not 0."""
    tokens: bool
    """Whether the patch tokens are kept beside the pooled feature."""

    @model_validator(mode="after")
    def _views_are_described(self) -> Features:
        if self.views and self.augmentation is None:
            raise ValueError("views needs `augmentation`")
        return self
