"""The schema of a study: the one source for YAML validation, the JSON schema and the config reference.

A study is one data set, one backbone, one recipe, any number of seeds and class orders, and the heads to
compare. Hyperparameters have no default: the YAML states them, so that it reads like the paper's table.
Settings annotated with `Unkeyed` say where and how a stage runs, not what it computes; they are left out of
the keys of runs (see `mem.runs`).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)


class Unkeyed:
    """Marks a setting that cannot change a result, and so is no part of a run's key."""


class Section(BaseModel):
    """Base of all sections: immutable, and closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.]*$")]
"""A name that becomes part of a path: letters, digits, `_` and `.`."""
Fraction = Annotated[float, Field(ge=0, le=1)]
OpenFraction = Annotated[float, Field(gt=0, lt=1)]


# --- data ---------------------------------------------------------------------------------------------


class LongTailCut(Section):
    """A balanced data set cut to a long tail by explicit counts."""

    name: Name
    """Name of the data set's folder under `runs/`."""
    counts: tuple[PositiveInt, ...]
    """Training images per class, in class order (see `orders` of the study)."""
    cut_seed: NonNegativeInt
    """Seed of the shuffle inside each class that decides which images stay."""
    val_per_class: PositiveInt
    """Images per class of the validation split, taken from the training images that the cut discards."""
    pixel_mean: tuple[Fraction, Fraction, Fraction]
    """Mean of each colour channel, with pixels in 0..1; images are normalised with it."""
    pixel_std: tuple[PositiveFloat, PositiveFloat, PositiveFloat]
    """Standard deviation of each colour channel, with pixels in 0..1."""
    storage: Literal["raw", "jpeg"]
    """How images are kept in the .beton file."""
    jpeg_quality: Annotated[int, Field(ge=1, le=100)] = 90
    """JPEG quality, where `storage` is `jpeg`."""

    @field_validator("counts")
    @classmethod
    def _ten_classes(cls, counts: tuple[int, ...]) -> tuple[int, ...]:
        if len(counts) != 10:
            raise ValueError(f"needs one count for each of the 10 classes, got {len(counts)}")
        return counts


class Digits(LongTailCut):
    """The 1,797 handwritten digits (8 x 8) that ship with scikit-learn."""

    source: Literal["digits"]
    test_per_class: PositiveInt
    """Images per class of the test split, set aside before the cut."""


class FashionMnist(LongTailCut):
    """Fashion-MNIST (Xiao et al. 2017): 60,000 training and 10,000 test images, 28 x 28."""

    source: Literal["fashion_mnist"]
    root: Annotated[str | None, Unkeyed()] = None
    """Folder of the four IDX files. Without it: Debian's `dataset-fashion-mnist`, then torchvision's folder."""


Dataset = Annotated[Digits | FashionMnist, Field(discriminator="source")]


class Shots(Section):
    """Thresholds, both exclusive, of the three groups of classes (the paper's section 4.1)."""

    many_above: PositiveInt = 100
    """Classes with more training images than this are many-shot."""
    few_below: PositiveInt = 20
    """Classes with fewer training images than this are few-shot; the rest is medium-shot."""

    @model_validator(mode="after")
    def _ordered(self) -> Shots:
        if self.few_below > self.many_above + 1:
            raise ValueError(f"few_below ({self.few_below}) must not exceed many_above + 1 ({self.many_above + 1})")
        return self

    def __str__(self) -> str:
        return f"many>{self.many_above} few<{self.few_below}"


# --- backbone -----------------------------------------------------------------------------------------


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


# --- training -----------------------------------------------------------------------------------------


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


# --- heads --------------------------------------------------------------------------------------------


class HeadTraining(Section):
    """How a head is trained on frozen features: a cosine from `lr` to 0."""

    epochs: PositiveFloat
    """As many samples are drawn as this many passes over the training set hold."""
    global_batch: PositiveInt
    """Samples per optimizer step."""
    optimizer: Literal["sgd", "adamw"]
    """`sgd` has momentum 0.9."""
    lr: PositiveFloat
    """Learning rate at the start; not scaled by the batch."""
    weight_decay: NonNegativeFloat
    sampler: Literal["instance", "class_balanced", "sqrt"]
    """`instance`: each image once an epoch. `class_balanced`: classes in turn, four images a visit (Kang et al.
    2020). `sqrt`: classes drawn with the square root of their count (Mahajan et al. 2018)."""


class Ce(Section):
    """The finetuned classifier as it is."""

    method: Literal["ce"]


class Tau(Section):
    """Tau-normalised classifier (Kang et al. 2020); tau is chosen by accuracy on val."""

    method: Literal["tau"]
    taus: tuple[NonNegativeFloat, ...]
    """Candidates."""

    @field_validator("taus")
    @classmethod
    def _some(cls, taus: tuple[float, ...]) -> tuple[float, ...]:
        if not taus:
            raise ValueError("needs at least one candidate")
        return taus


class Crt(Section):
    """Classifier re-training (Kang et al. 2020): a fresh linear classifier on the frozen backbone."""

    method: Literal["crt"]
    training: HeadTraining


class Lws(Section):
    """Learnable weight scaling (Kang et al. 2020): one factor a class on the frozen classifier."""

    method: Literal["lws"]
    training: HeadTraining


class Mem(Section):
    """Mutual exclusive modulator (the paper's section 3). docs/mem.md says what the paper leaves open."""

    method: Literal["mem"]
    partition: Literal["shot", "random_even", "cardinality_even"]
    """How classes are put into groups: by the thresholds of `shots`, at random in even parts, or in even parts
    after sorting by training images."""
    groups: PositiveInt = 3
    """Number of groups; `shot` has always three."""
    partition_seed: NonNegativeInt = 0
    """Seed of `random_even`."""
    input: Literal["pooled", "tokens"]
    """What the sub-networks see: the pooled feature, or the patch tokens (then `features.tokens` is needed)."""
    width: PositiveInt
    """Dimension of a sub-network's embedding."""
    depth: NonNegativeInt
    """Transformer blocks of a sub-network, after its linear embedding."""
    xi: PositiveFloat
    """Eq. 3: the norm that a sub-network should exceed for images of its group."""
    mu: NonNegativeFloat
    """Eq. 3: the norm that it should stay under for all others."""
    top_k: PositiveInt
    """Eq. 7: how many of each group's largest logits the fusion sees; a smaller group gives all it has."""
    reo_weight: NonNegativeFloat
    """Factor of the regularisation objective in eq. 10, where the paper has 1."""
    fusion_width: PositiveInt
    """Hidden width of the fusion's two-layer perceptron."""
    weight: Literal["free", "softplus", "exp", "additive"]
    """How the fusion's output o becomes the group weight w: o, softplus(o), exp(o), or o added to the logits instead of
    multiplied with them. Every choice starts
    neutral, so that MEM starts as the classifier it modulates."""
    classifier: Literal["frozen", "trained"]
    """Whether the linear classifier under the modulator learns with it."""
    classifier_from: Name
    """Name of the head whose linear classifier MEM starts from: `ce`, or a `crt` head of this study."""
    training: HeadTraining

    @model_validator(mode="after")
    def _consistent(self) -> Mem:
        if self.partition == "shot" and self.groups != 3:
            raise ValueError(f"partition `shot` has 3 groups, not {self.groups}")
        if self.mu >= self.xi:
            raise ValueError(f"mu ({self.mu:g}) must be smaller than xi ({self.xi:g})")
        return self


Head = Annotated[Ce | Tau | Crt | Lws | Mem, Field(discriminator="method")]


# --- running ------------------------------------------------------------------------------------------


class Compute(Section):
    """What a stage may use. Nothing here changes a result."""

    threads: PositiveInt = 1
    """CPU cores."""
    memory_gb: PositiveFloat = 4
    """Main memory."""
    hours: PositiveFloat = 1
    """Time limit of the job."""
    micro_batch: PositiveInt | None = None
    """Largest batch that goes through a device at once; larger batches are accumulated."""
    checkpoint_minutes: NonNegativeFloat = 3
    """Time between checkpoints."""


class StageCompute(Section):
    """One `Compute` a stage."""

    convert: Compute = Compute()
    pretrain: Compute = Compute()
    finetune: Compute = Compute()
    features: Compute = Compute()
    train_head: Compute = Compute()
    evaluate: Compute = Compute()
    report: Compute = Compute()


class Study(Section):
    """One data set, one backbone, one recipe; seeds, class orders and heads to compare."""

    study: Name
    """Name of the study's folder under `results/`."""
    description: str = ""
    """What the study is for: command, duration, what to expect. Shown in the report."""
    dataset: Dataset
    orders: tuple[NonNegativeInt, ...] = (0,)
    """Orders of the classes along the long tail: 0 is the data set's own, any other seeds a permutation."""
    seeds: tuple[NonNegativeInt, ...]
    """Seeds of initialisation, sampling, augmentation and masks."""
    shots: Shots = Shots()
    backbone: VisionTransformer
    pretrain: Pretrain | None
    """`null` trains from scratch."""
    finetune: Finetune
    features: Features
    heads: dict[Name, Head]
    """The heads to compare, by name. The name is the method's where `method` is left out."""
    compute: Annotated[StageCompute, Unkeyed()] = StageCompute()

    @field_validator("orders", "seeds")
    @classmethod
    def _distinct(cls, values: tuple[int, ...]) -> tuple[int, ...]:
        if not values:
            raise ValueError("needs at least one")
        if len(set(values)) != len(values):
            raise ValueError(f"has a value twice: {list(values)}")
        return values

    @field_validator("heads", mode="before")
    @classmethod
    def _method_is_name(cls, heads: Any) -> Any:
        if not isinstance(heads, dict):
            return heads
        return {
            name: {"method": name} | (head or {}) if isinstance(head, dict | None) else head
            for name, head in heads.items()
        }

    @model_validator(mode="after")
    def _heads_fit(self) -> Study:
        if not self.heads:
            raise ValueError("heads: needs at least one")
        for name, head in self.heads.items():
            if not isinstance(head, Mem):
                continue
            base = self.heads.get(head.classifier_from)
            if not isinstance(base, Ce | Crt):
                choices = [n for n, h in self.heads.items() if isinstance(h, Ce | Crt)]
                raise ValueError(
                    f"heads.{name}.classifier_from: `{head.classifier_from}` is no ce or crt head of this study; "
                    f"there are {choices}"
                )
            if head.input == "tokens" and not self.features.tokens:
                raise ValueError(f"heads.{name}.input is `tokens`, but features.tokens is false")
        return self
