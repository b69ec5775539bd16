"""Settings for training a backbone and for computing its features."""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from mem.config.base import Fraction, OpenFraction, Section, Unkeyed

SectionT = TypeVar("SectionT", bound=Section)


class RandAugment(Section):
    """RandAugment (Cubuk et al. 2020) as implemented in timm.

    timm's `rand-m9-mstd0.5-inc1` corresponds to layers 2, magnitude 9, magnitude_std 0.5, increasing true.
    """

    layers: PositiveInt
    """Number of operations that are sampled for each image and applied in sequence."""
    magnitude: Annotated[float, Field(ge=0, le=10)]
    """Mean magnitude of an operation; 10 is the maximum."""
    magnitude_std: NonNegativeFloat
    """Standard deviation of the magnitude, which is clipped to 0..10."""
    increasing: bool
    """Whether a larger magnitude always means a stronger distortion."""
    probability: Fraction = 0.5
    """Probability that a sampled operation is applied."""


class Augmentation(Section):
    """Random resized crop and flip, optionally followed by RandAugment, colour jitter and random erasing."""

    crop_scale: tuple[PositiveFloat, PositiveFloat]
    """Minimum and maximum share of the image area that a crop covers."""
    crop_ratio: tuple[PositiveFloat, PositiveFloat] = (3 / 4, 4 / 3)
    """Minimum and maximum aspect ratio (width / height) of a crop."""
    flip: bool
    """Whether images are flipped horizontally with probability 0.5."""
    rand_augment: RandAugment | None = None
    """RandAugment settings. Default: RandAugment is off."""
    color_jitter: tuple[Fraction, Fraction, Fraction] = (0, 0, 0)
    """Strength of brightness, contrast and saturation jitter: each is scaled by 1 - value to 1 + value."""
    erasing: Fraction = 0
    """Probability of random erasing (Zhong et al. 2020). It is available only in finetuning."""

    @model_validator(mode="after")
    def _ordered(self) -> Augmentation:
        for name, (low, high) in (("crop_scale", self.crop_scale), ("crop_ratio", self.crop_ratio)):
            if low > high:
                raise ValueError(f"{name}: the minimum must not exceed the maximum, got [{low}, {high}]")
        if self.crop_scale[1] > 1:
            raise ValueError(f"crop_scale must not exceed 1, got {self.crop_scale[1]}")
        return self


class StepDecay(Section):
    """Learning-rate schedule in steps."""

    every_epochs: PositiveFloat
    """Number of epochs between two steps, counted from the start of training."""
    factor: OpenFraction
    """Factor by which each step multiplies the learning rate."""


class Training(Section):
    """Training settings. The learning rate warms up linearly and then follows a cosine schedule to `min_lr`.

    All batches are full.
    """

    epochs: PositiveFloat
    """Number of passes over the training set."""
    warmup_epochs: NonNegativeFloat
    """Number of warm-up epochs, during which the learning rate rises linearly from 0."""
    global_batch: PositiveInt
    """Images per optimizer step, summed over all ranks and micro-batches."""
    base_lr: PositiveFloat
    """Learning rate for a global batch size of 256. The peak learning rate is base_lr * global_batch / 256."""
    min_lr: NonNegativeFloat
    """Learning rate at the end of the cosine schedule, or the smallest learning rate of `step_decay`."""
    step_decay: StepDecay | None = None
    """Schedule in steps instead of the cosine schedule. Default: cosine."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """Optimizer: AdamW (Loshchilov & Hutter 2019), or stochastic gradient descent with momentum."""
    betas: tuple[OpenFraction, OpenFraction] | None = None
    """AdamW's decay rates; required for `adamw`, not allowed otherwise."""
    momentum: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Momentum of SGD; required for `sgd`, not allowed otherwise."""
    nesterov: bool = False
    """Whether `sgd` uses Nesterov momentum (Nesterov 1983)."""
    weight_decay: NonNegativeFloat
    """Weight decay. It is decoupled in AdamW and added to the gradient in SGD. See also `decay_all`."""
    decay_all: bool = False
    """Whether weight decay also applies to norms, biases, tokens and position embeddings, as in plain SGD recipes."""
    clip_grad: PositiveFloat | None = None
    """Maximum L2 norm for gradient clipping. Default: no clipping."""
    precision: Literal["fp32", "bf16"]
    """Precision of the forward pass. `bf16` uses autocast; weights and optimizer state stay float32."""
    ema_decay: OpenFraction | None = None
    """Decay of the exponential moving average of the weights. If set, the averaged weights are evaluated and saved."""
    on_nonfinite: Literal["stop", "skip"] = "stop"
    """Action if the loss or the gradient is NaN or infinite: stop with an error that names the step, or skip and count
    the step."""

    @model_validator(mode="after")
    def _optimizer_is_complete(self) -> Training:
        needed, other = ("betas", "momentum") if self.optimizer == "adamw" else ("momentum", "betas")
        if getattr(self, needed) is None:
            raise ValueError(f"optimizer `{self.optimizer}` requires `{needed}`")
        if getattr(self, other) is not None or (self.nesterov and self.optimizer == "adamw"):
            given = other if getattr(self, other) is not None else "nesterov"
            raise ValueError(f"optimizer `{self.optimizer}` has no setting `{given}`; remove it")
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov requires a momentum above 0")
        return self

    @model_validator(mode="after")
    def _warmup_fits(self) -> Training:
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs ({self.warmup_epochs:g}) must be smaller than epochs ({self.epochs:g})")
        return self

    @property
    def lr(self) -> float:
        """Peak learning rate by the linear scaling rule (Goyal et al. 2017)."""
        return self.base_lr * self.global_batch / 256


class Decoder(Section):
    """Decoder of a masked autoencoder."""

    width: PositiveInt
    """Dimension of a token."""
    depth: PositiveInt
    """Number of transformer blocks."""
    heads: PositiveInt
    """Attention heads per block."""

    @model_validator(mode="after")
    def _fits(self) -> Decoder:
        if self.width % self.heads or self.width % 4:
            raise ValueError(f"width ({self.width}) must be a multiple of heads ({self.heads}) and of 4")
        return self


class Pretrain(Training):
    """Masked-autoencoder pretraining (He et al. 2022)."""

    mask_ratio: OpenFraction
    """Share of the patches that are masked for the encoder."""
    norm_pix_loss: bool
    """Whether each target patch is normalised by its own mean and variance."""
    decoder: Decoder
    augmentation: Augmentation
    reconstruct_every_epochs: Annotated[PositiveFloat | None, Unkeyed()] = None
    """Number of epochs between figures of a few reconstructed training images. The last figure is saved at the end of
    training. Default: no figures."""

    @model_validator(mode="after")
    def _has_no_erasing(self) -> Pretrain:
        return _without_erasing(self, self.augmentation)


class Finetune(Training):
    """Supervised finetuning of the complete backbone with cross-entropy, the row CE in the paper's tables."""

    layer_decay: Annotated[float, Field(gt=0, le=1)]
    """Layer-wise learning-rate decay: ratio of each layer's learning rate to the next layer's (Clark et al. 2020)."""
    classifier_lr_factor: PositiveFloat = 1
    """Ratio of the linear classifier's learning rate to `base_lr` after scaling; all other layers are unaffected."""
    drop_path: Annotated[float, Field(ge=0, lt=1)]
    """Stochastic depth rate of the last block (Huang et al. 2016). Rates rise linearly from 0 at the first block."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]
    augmentation: Augmentation
    validate_every_epochs: Annotated[PositiveFloat, Unkeyed("finetune")]
    """Number of epochs between evaluations on val. The accuracy is only logged; it does not affect training."""
    mixup: NonNegativeFloat = 0
    """Mixup parameter (Zhang et al. 2018). Each sample is mixed with its neighbour; the mixing weight is sampled from
    Beta(mixup, mixup). 0 disables mixup."""
    cutmix: NonNegativeFloat = 0
    """CutMix parameter (Yun et al. 2019). A box in each sample is replaced with pixels of its neighbour; the share of
    the box area is sampled from Beta(cutmix, cutmix). 0 disables CutMix."""
    mix_probability: Fraction = 1
    """Probability that a sample is mixed if `mixup` or `cutmix` is enabled."""
    mix_switch: Fraction = 0.5
    """Probability that CutMix is used for a mixed sample if both are enabled."""
    mix_batch: PositiveInt = 1
    """Number of consecutive samples that share the mixing weight, the box and the choice between mixup and CutMix,
    regardless of the number of GPUs and micro-batches. 1 corresponds to timm's mode `elem`, and the number of images
    per GPU to timm's mode `batch`. MAE's finetuning uses 32 images per GPU."""

    @property
    def mixes(self) -> bool:
        """Whether `mixup` or `cutmix` is enabled."""
        return bool(self.mixup or self.cutmix)

    def without_effect(self) -> frozenset[str]:
        """Return the settings of mixup and CutMix that are not used."""
        if not self.mixes:
            return frozenset(("mix_probability", "mix_switch", "mix_batch"))
        return frozenset() if self.mixup and self.cutmix else frozenset(("mix_switch",))

    @model_validator(mode="after")
    def _batch_is_even(self) -> Finetune:
        if self.mixes and self.global_batch % 2:
            raise ValueError(f"mixup and cutmix mix pairs of samples: global_batch ({self.global_batch}) must be even")
        if self.mix_batch > 1 and (self.mix_batch % 2 or self.global_batch % self.mix_batch):
            raise ValueError(
                f"mix_batch ({self.mix_batch}) must be 1, or an even number that divides global_batch "
                f"({self.global_batch})"
            )
        return self


class Features(Section):
    """Settings for features of the frozen backbone, which are computed once per view."""

    views: NonNegativeInt
    """Number of augmented views of the training split, in addition to the plain view."""
    augmentation: Augmentation | None = None
    """Augmentation of the views; required if `views` is not 0."""
    tokens: bool
    """Whether the patch tokens are stored in addition to the pooled feature."""
    dtype: Literal["float32", "float16"] = "float32"
    """Data type of stored tokens; `float16` halves their size. The pooled feature is always float32."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Precision of the backbone's forward pass. `bf16` uses autocast to bfloat16, for which GPUs have matrix units. It
    changes the features, which are stored as before."""
    online: bool = False
    """Whether heads run the backbone in every epoch instead of reading stored features. This saves disk space."""

    def without_effect(self) -> frozenset[str]:
        """Return the augmentation if there are no augmented views."""
        return frozenset() if self.views else frozenset(("augmentation",))

    @model_validator(mode="after")
    def _dtype_requires_stored_tokens(self) -> Features:
        if self.dtype != "float32" and (self.online or not self.tokens):
            why = "`online` stores nothing" if self.online else "`tokens` is false"
            raise ValueError(f"dtype is the data type of stored tokens, but {why}; remove dtype")
        return self

    @model_validator(mode="after")
    def _views_have_augmentation(self) -> Features:
        if self.views and self.augmentation is None:
            raise ValueError("views requires `augmentation`")
        return _without_erasing(self, self.augmentation)


def _without_erasing(section: SectionT, augmentation: Augmentation | None) -> SectionT:
    if augmentation and augmentation.erasing:
        raise ValueError("augmentation.erasing is available in finetuning only; remove it here")
    return section
