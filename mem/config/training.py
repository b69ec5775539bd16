"""Settings for training a backbone and for computing its features."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from mem.config.augmentation import Augmentation, check_without_erasing
from mem.config.base import Fraction, OpenFraction, Section, Unkeyed
from mem.config.class_embeddings import InitialClassifier
from mem.config.contrastive_objectives import Contrast
from mem.config.experts import Experts
from mem.config.objectives import CROSS_ENTROPY, Objective
from mem.config.tuners import ALL_PARAMETERS, AllParameters, Tuner

Precision = Literal["fp32", "bf16", "fp16"]
"""Precision of forward passes. Training does not have `fp16`, which would require loss scaling."""


class StepDecay(Section):
    """Learning-rate schedule in steps."""

    every_epochs: PositiveFloat | None = None
    """Number of epochs between two steps, counted from the start of training."""
    at_epochs: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] | None = None
    """Epochs of the steps, in increasing order, instead of `every_epochs`."""
    factor: OpenFraction
    """Factor by which each step multiplies the learning rate."""

    @model_validator(mode="after")
    def _steps_are_specified_once(self) -> StepDecay:
        if (self.every_epochs is None) == (self.at_epochs is None):
            raise ValueError("specify either every_epochs or at_epochs")
        if self.at_epochs is not None and list(self.at_epochs) != sorted(set(self.at_epochs)):
            raise ValueError(f"at_epochs: expected increasing epochs, got {list(self.at_epochs)}")
        return self

    @property
    def steps(self) -> float | tuple[float, ...]:
        """Epochs between two steps, or the epochs of all steps."""
        return self.every_epochs if self.at_epochs is None else self.at_epochs  # pyright: ignore[reportReturnType]


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
    """Precision of the forward pass. `bf16` uses autocast; weights and optimizer state stay float32. On a device
    without instructions for bfloat16, the forward pass uses float32."""
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
        check_without_erasing(self.augmentation)
        return self


class Finetune(Training):
    """Supervised finetuning of the complete backbone or, with a tuner, of a part of it.

    With cross-entropy and all parameters, this is the row CE in the paper's tables.
    """

    objective: Objective = CROSS_ENTROPY
    """Loss function: the name of an objective, or a section with `name` and the settings of the objective."""
    sampler: Literal["instance", "class_balanced", "sqrt", "progressive"] = "instance"
    """Sampling order. `instance` visits each image once per epoch. `class_balanced` visits the classes in turn, with
    one image per visit. `sqrt` samples classes in proportion to the square root of their image count (Mahajan et al.
    2018). `progressive` moves linearly from `instance` to `class_balanced` probabilities in the course of training
    (Kang et al. 2020)."""
    cosine_scale: PositiveFloat | None = None
    """Scale s of a cosine classifier, with the logits s cos(w_k, z) of feature z and no bias. Default: a linear
    classifier."""
    initial_classifier: InitialClassifier | None = None
    """Initial weights of the classifier: class means of the initial backbone's features, text features of the class
    names, or class embeddings from a file. Each weight vector has the norm 1, and biases are 0, as in LIFT (Shi et al.
    2024). Default: random weights."""
    experts: Experts | None = None
    """Experts: several classifiers that share the first layers of the backbone. Default: one classifier."""
    tuner: Tuner = ALL_PARAMETERS
    """Parameters that train: the name of a tuner, or a section with `name` and the settings of the tuner. The other
    parameters keep their pretrained values. Default: all parameters."""
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

    @property
    def contrast(self) -> Contrast | None:
        """Settings of the key encoder of a contrastive objective, with which each image has two views."""
        return getattr(self.objective, "contrast", None)

    @property
    def second_augmentation(self) -> Augmentation | None:
        """Augmentation of the second view of each image. None if each image has one view."""
        return None if self.contrast is None else self.contrast.second_view or self.augmentation

    @property
    def whole_batch(self) -> bool:
        """Whether each rank must process its part of the global batch at once, and ranks exchange outputs."""
        return self.objective.whole_batch or self.contrast is not None

    def without_effect(self) -> frozenset[str]:
        """Return the settings of mixup and CutMix that are not used."""
        if not self.mixes:
            return frozenset(("mix_probability", "mix_switch", "mix_batch"))
        return frozenset() if self.mixup and self.cutmix else frozenset(("mix_switch",))

    @model_validator(mode="after")
    def _objective_fits(self) -> Finetune:
        name = self.objective.name
        if not self.objective.defines_soft_targets and (self.mixes or self.label_smoothing):
            setting = "mixup" if self.mixup else "cutmix" if self.cutmix else "label_smoothing"
            raise ValueError(
                f"objective `{name}` is not defined for soft targets, which mixup, cutmix and label_smoothing create; "
                f"set {setting} to 0, or choose another objective"
            )
        if self.objective.requires_cosine and self.cosine_scale is None:
            raise ValueError(f"objective `{name}` requires a cosine classifier; set cosine_scale, for example to 30")
        if self.objective.requires_experts and self.experts is None:
            raise ValueError(f"objective `{name}` requires experts; set experts, for example to {{number: 3}}")
        if self.experts is not None:
            self.objective.check_experts(self.experts.number)
        self.objective.check_training(self.sampler, self.epochs)
        return self

    @model_validator(mode="after")
    def _tuner_fits(self) -> Finetune:
        if isinstance(self.tuner, AllParameters):
            return self
        if self.experts is not None:
            raise ValueError(
                f"tuner: `{self.tuner.name}` is available for a backbone with one classifier, but experts are set; "
                "remove experts, or set the tuner to all"
            )
        if self.contrast is not None:
            raise ValueError(
                f"tuner: `{self.tuner.name}` is not available with objective.contrast, whose key encoder is a moving "
                "average of the complete network; choose another objective, or set the tuner to all"
            )
        return self

    @model_validator(mode="after")
    def _contrast_fits(self) -> Finetune:
        contrast = self.contrast
        if contrast is None:
            return self
        if contrast.queue < self.global_batch:
            raise ValueError(
                f"objective.contrast.queue ({contrast.queue}) is smaller than global_batch ({self.global_batch}), but "
                "each step adds the keys of a global batch; use a multiple of global_batch"
            )
        if contrast.queue % self.global_batch:
            raise ValueError(
                f"objective.contrast.queue ({contrast.queue}) must be a multiple of global_batch "
                f"({self.global_batch}), so that the keys of a step leave the queue together; use for example "
                f"{contrast.queue // self.global_batch * self.global_batch}"
            )
        if self.second_augmentation is not None and self.second_augmentation.erasing:
            raise ValueError(
                "objective.contrast.second_view: random erasing is not available for the second view; specify a "
                "second_view without erasing"
            )
        return self

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


class BatchNormUpdate(Section):
    """Update of the running statistics of BatchNorm by forward passes over augmented training images."""

    sampler: Literal["instance", "class_balanced", "sqrt"]
    """Sampling order, as in finetuning. The second stage of MiSLAS (Zhong et al. 2021) uses `class_balanced`."""
    epochs: PositiveFloat
    """Number of sampled images as a multiple of the training set size."""
    batch: PositiveInt
    """Number of images per update of the statistics; a multiple of `backbone.norm_batch`."""


class Features(Section):
    """Settings for features of the frozen backbone, which are computed once per view."""

    views: NonNegativeInt
    """Number of augmented views of the training split, in addition to the plain view."""
    augmentation: Augmentation | None = None
    """Augmentation of the views; required if `views` is not 0."""
    tokens: bool
    """Whether the patch tokens are stored in addition to the pooled feature."""
    dtype: Literal["float32", "float16"] = "float32"
    """Data type of stored tokens; `float16` halves their size. See `pooled_dtype` for the pooled feature."""
    pooled_dtype: Literal["float32", "float16"] = "float32"
    """Data type of stored pooled features; `float16` halves their size. Heads read both as float32."""
    precision: Precision = "fp32"
    """Precision of the backbone's forward pass. `bf16` and `fp16` use autocast to bfloat16 and float16, for which GPUs
    have matrix units. They change the features, which are stored as before. `fp16` rounds less than `bf16`, but values
    above 65,504 overflow. A device without instructions for the precision uses float32."""
    online: bool = False
    """Whether heads run the backbone in every epoch instead of reading stored features. This saves disk space."""
    batch_norm: BatchNormUpdate | None = None
    """Update of the finetuned backbone's BatchNorm statistics with images of the augmentation `augmentation`, before
    features are computed. Default: the statistics of finetuning."""

    def without_effect(self) -> frozenset[str]:
        """Return the augmentation if there are no augmented images."""
        return frozenset() if self.views or self.batch_norm else frozenset(("augmentation",))

    @model_validator(mode="after")
    def _dtypes_are_of_stored_features(self) -> Features:
        if self.dtype != "float32" and (self.online or not self.tokens):
            why = "`online` stores nothing" if self.online else "`tokens` is false"
            raise ValueError(f"dtype is the data type of stored tokens, but {why}; remove dtype")
        if self.pooled_dtype != "float32" and self.online:
            raise ValueError(
                "pooled_dtype is the data type of stored features, but `online` stores nothing; remove pooled_dtype"
            )
        return self

    @model_validator(mode="after")
    def _views_have_augmentation(self) -> Features:
        if self.views and self.augmentation is None:
            raise ValueError("views requires `augmentation`")
        if self.batch_norm and self.augmentation is None:
            raise ValueError("batch_norm requires `augmentation`")
        check_without_erasing(self.augmentation)
        return self
