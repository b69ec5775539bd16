"""Heads on frozen features."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from mem.config.base import Name, Section


class Blocks(Section):
    """How features that are larger than memory are shuffled: by blocks of neighbours, then within windows."""

    images: PositiveInt
    """Neighbouring images that are read together. A megabyte of features or more is quick on any disk."""
    window: PositiveInt
    """Blocks among which images are shuffled; memory holds about three times as many."""


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
    blocks: Blocks | None = None
    """For features larger than memory, with `instance`: an order that a disk can follow at its full rate. A window of
    twenty batches or more keeps batches mixed. All images of a block show the same view in an epoch."""
    views: NonNegativeInt | None = None
    """How many of the augmented views of `features` are trained on, with the plain one; all where it is left out."""

    @model_validator(mode="after")
    def _blocks_of_instances(self) -> HeadTraining:
        if self.blocks and self.sampler != "instance":
            raise ValueError(f"`blocks` goes with sampler `instance`, not with `{self.sampler}`")
        return self


def _some(taus: tuple[float, ...]) -> tuple[float, ...]:
    if not taus:
        raise ValueError("needs at least one candidate")
    return taus


class Ce(Section):
    """The finetuned classifier as it is; with `training` a linear probe: a fresh linear classifier on the features."""

    method: Literal["ce"]
    training: HeadTraining | None = None
    """How the probe is trained; needed where nothing was finetuned (`finetune: null`, features from files)."""


class Tau(Section):
    """Tau-normalised classifier (Kang et al. 2020); tau is chosen by accuracy on val."""

    method: Literal["tau"]
    taus: tuple[NonNegativeFloat, ...]
    """Candidates."""

    @field_validator("taus")
    @classmethod
    def _at_least_one(cls, taus: tuple[float, ...]) -> tuple[float, ...]:
        return _some(taus)


class Crt(Section):
    """Classifier re-training (Kang et al. 2020): a fresh linear classifier on the frozen backbone."""

    method: Literal["crt"]
    training: HeadTraining


class Lws(Section):
    """Learnable weight scaling (Kang et al. 2020): one factor a class on the frozen classifier."""

    method: Literal["lws"]
    training: HeadTraining


class Ncm(Section):
    """Nearest class mean (Kang et al. 2020): no training; centred, L2-normalised features against their class means."""

    method: Literal["ncm"]


class LogitAdjustment(Section):
    """Post-hoc logit adjustment (Menon et al. 2021): the finetuned logits minus tau log prior, tau chosen on val."""

    method: Literal["logit_adjustment"]
    taus: tuple[NonNegativeFloat, ...]
    """Candidates; 1 is the theory's."""

    @field_validator("taus")
    @classmethod
    def _at_least_one(cls, taus: tuple[float, ...]) -> tuple[float, ...]:
        return _some(taus)


class LogitAdjustedLoss(Section):
    """A fresh linear classifier with the logit-adjusted loss (Menon et al. 2021).

    Cross-entropy of logits plus tau log prior in training, plain logits at test.
    """

    method: Literal["logit_adjusted_loss"]
    tau: PositiveFloat
    """Strength of the adjustment; 1 is the theory's."""
    training: HeadTraining


class BalancedSoftmax(Section):
    """A fresh linear classifier with balanced softmax (Ren et al. 2020).

    Cross-entropy of logits plus log class counts in training, plain logits at test: `logit_adjusted_loss` with tau 1.
    """

    method: Literal["balanced_softmax"]
    training: HeadTraining


class Mem(Section):
    """Mutual exclusive modulator (the paper's section 3). docs/explanation/mem.md says what the paper leaves open."""

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
    weight: Literal["free", "softplus", "exp", "residual", "additive"]
    """How the fusion's output o becomes the group weight w: o, softplus(o), exp(o), 1 + o, or o added to the logits
    instead of multiplied with them. Every choice starts neutral, so that MEM starts as the classifier it modulates."""
    classifier: Literal["frozen", "trained"]
    """Whether the linear classifier under the modulator learns with it."""
    classifier_from: Name
    """Name of the head whose linear classifier MEM starts from: a head of this study whose method is `ce`, `crt`,
    `balanced_softmax` or `logit_adjusted_loss`."""
    training: HeadTraining

    @model_validator(mode="after")
    def _consistent(self) -> Mem:
        if self.partition == "shot" and self.groups != 3:
            raise ValueError(f"partition `shot` has 3 groups, not {self.groups}")
        if self.mu >= self.xi:
            raise ValueError(f"mu ({self.mu:g}) must be smaller than xi ({self.xi:g})")
        return self


Head = Annotated[
    Ce | Tau | Crt | Lws | Ncm | LogitAdjustment | LogitAdjustedLoss | BalancedSoftmax | Mem,
    Field(discriminator="method"),
]

TRAINED_LINEAR = (Crt, LogitAdjustedLoss, BalancedSoftmax)
"""Heads that train a linear classifier of their own, which MEM can start from."""
