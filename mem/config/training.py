"""How backbones are trained and what their features are."""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from mem.config.base import Fraction, OpenFraction, Section, Unkeyed

Erased = TypeVar("Erased", bound=Section)


class RandAugment(Section):
    """RandAugment (Cubuk et al. 2020) as timm has it.

    `rand-m9-mstd0.5-inc1` is layers 2, magnitude 9, magnitude_std 0.5, increasing true.
    """

    layers: PositiveInt
    """Operations that are drawn for an image, one after the other."""
    magnitude: Annotated[float, Field(ge=0, le=10)]
    """Mean strength of an operation; 10 is full strength."""
    magnitude_std: NonNegativeFloat
    """Standard deviation of the strength, which is then cut to 0..10."""
    increasing: bool
    """Whether a higher magnitude always means a stronger change."""
    probability: Fraction = 0.5
    """That an operation that was drawn is applied."""


class Augmentation(Section):
    """Random resized crop and flip, and what may follow: RandAugment, colour jitter, erasing."""

    crop_scale: tuple[PositiveFloat, PositiveFloat]
    """Smallest and largest share of the image's area that a crop covers."""
    crop_ratio: tuple[PositiveFloat, PositiveFloat] = (3 / 4, 4 / 3)
    """Smallest and largest aspect ratio (width / height) of a crop."""
    flip: bool
    """Whether half of the images are mirrored left to right."""
    rand_augment: RandAugment | None = None
    """Changes of shape and colour."""
    color_jitter: tuple[Fraction, Fraction, Fraction] = (0, 0, 0)
    """Brightness, contrast and saturation are each scaled by a factor from 1 minus this to 1 plus this."""
    erasing: Fraction = 0
    """Share of the images that get a rectangle of noise (Zhong et al. 2020); in finetuning only."""

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
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """AdamW (Loshchilov & Hutter 2019), or stochastic gradient descent with momentum."""
    betas: tuple[OpenFraction, OpenFraction] | None = None
    """AdamW's decay rates; only for `adamw`, and needed there."""
    momentum: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Share of the last update that the next one keeps; only for `sgd`, and needed there."""
    nesterov: bool = False
    """Whether `sgd` looks ahead (Nesterov 1983)."""
    weight_decay: NonNegativeFloat
    """Weight decay, decoupled in AdamW, part of the gradient in SGD; see `decay_all`."""
    decay_all: bool = False
    """Whether norms, biases, tokens and positions decay too, as in plain SGD recipes."""
    clip_grad: PositiveFloat | None = None
    """Largest L2 norm of the gradient; without it gradients are not clipped."""
    precision: Literal["fp32", "bf16"]
    """`bf16` runs the forward pass under autocast; weights and optimizer stay float32."""
    ema_decay: OpenFraction | None = None
    """Share of the averaged weights that each step keeps. With it the averaged weights are validated and saved."""
    on_nonfinite: Literal["stop", "skip"] = "stop"
    """What happens when loss or gradient is NaN or infinite: the training stops and names the step, or leaves it out
    and counts it."""

    @model_validator(mode="after")
    def _optimizer_is_described(self) -> Training:
        needed, other = ("betas", "momentum") if self.optimizer == "adamw" else ("momentum", "betas")
        if getattr(self, needed) is None:
            raise ValueError(f"optimizer `{self.optimizer}` needs `{needed}`")
        if getattr(self, other) is not None or (self.nesterov and self.optimizer == "adamw"):
            given = other if getattr(self, other) is not None else "nesterov"
            raise ValueError(f"optimizer `{self.optimizer}` has no `{given}`: leave it out")
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs a momentum above 0")
        return self

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
    reconstruct_every_epochs: Annotated[PositiveFloat | None, Unkeyed()] = None
    """How often pictures of a few reconstructed training images are made, and at the end; without it never."""

    @model_validator(mode="after")
    def _nothing_erased(self) -> Pretrain:
        return _without_erasing(self, self.augmentation)


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
    mixup: NonNegativeFloat = 0
    """Each sample is mixed with its neighbour by a share from Beta(mixup, mixup) (Zhang et al. 2018); 0 is off."""
    cutmix: NonNegativeFloat = 0
    """Each sample gets a box of its neighbour, of a size from Beta(cutmix, cutmix) (Yun et al. 2019); 0 is off."""
    mix_probability: Fraction = 1
    """Share of the samples that are mixed, where `mixup` or `cutmix` is on."""
    mix_switch: Fraction = 0.5
    """Share of the mixed samples that `cutmix` mixes, where both are on."""

    @property
    def mixes(self) -> bool:
        """Whether samples are mixed."""
        return bool(self.mixup or self.cutmix)

    @model_validator(mode="after")
    def _whole_pairs(self) -> Finetune:
        if self.mixes and self.global_batch % 2:
            raise ValueError(f"mixup and cutmix take pairs of samples: global_batch ({self.global_batch}) must be even")
        return self


class Features(Section):
    """Features of the frozen backbone, computed once per view."""

    views: NonNegativeInt
    """Augmented views of the training split beside the plain one."""
    augmentation: Augmentation | None = None
    """How the augmented views are drawn; needed where `views` is not 0."""
    tokens: bool
    """Whether the patch tokens are kept beside the pooled feature."""
    dtype: Literal["float32", "float16"] = "float32"
    """How tokens are kept on disk; `float16` takes half the room. The pooled feature is float32 always."""
    online: bool = False
    """Whether the backbone runs in every epoch of every head, where the disk has no room for features."""

    @model_validator(mode="after")
    def _dtype_is_of_stored_tokens(self) -> Features:
        if self.dtype != "float32" and (self.online or not self.tokens):
            why = "nothing is stored with `online`" if self.online else "there are no tokens"
            raise ValueError(f"dtype says how tokens are kept on disk, and {why}: leave it out")
        return self

    @model_validator(mode="after")
    def _views_are_described(self) -> Features:
        if self.views and self.augmentation is None:
            raise ValueError("views needs `augmentation`")
        return _without_erasing(self, self.augmentation)


def _without_erasing(section: Erased, augmentation: Augmentation | None) -> Erased:
    if augmentation and augmentation.erasing:
        raise ValueError("augmentation.erasing is part of finetuning only; leave it out here")
    return section
