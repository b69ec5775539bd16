"""Settings for heads on frozen features."""

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

from mem.config.base import Name, Section, Unkeyed


class Blocks(Section):
    """Two-level shuffling for features that do not fit into memory: blocks of images, then images within windows."""

    images: PositiveInt
    """Number of consecutive images that are read at once. Reads of a megabyte or more are fast on any disk."""
    window: PositiveInt
    """Number of blocks whose images are shuffled together. About three times as many blocks are kept in memory."""


class HeadTraining(Section):
    """Training settings for a head on frozen features. The learning rate follows a cosine schedule from `lr` to 0."""

    epochs: PositiveFloat
    """Length of training as a multiple of the training set size."""
    global_batch: PositiveInt
    """Samples per optimizer step."""
    optimizer: Literal["sgd", "adamw"]
    """Optimizer. `sgd` uses momentum 0.9."""
    lr: PositiveFloat
    """Initial learning rate. It is not scaled by the batch size."""
    weight_decay: NonNegativeFloat
    sampler: Literal["instance", "class_balanced", "sqrt"]
    """Sampling order. `instance` visits each image once per epoch. `class_balanced` visits the classes in turn, with
    four images per visit (Kang et al. 2020). `sqrt` samples classes in proportion to the square root of their image
    count (Mahajan et al. 2018)."""
    blocks: Blocks | None = None
    """Block-wise reading at full disk throughput, for features that do not fit into memory. Requires the sampler
    `instance`. Choose a window of at least twenty batches so that batches are well mixed. Within an epoch, all images
    of a block use the same view."""
    views: NonNegativeInt | None = None
    """Number of augmented views of `features` to train on, in addition to the plain view. Default: all."""

    @model_validator(mode="after")
    def _blocks_require_instance_sampler(self) -> HeadTraining:
        if self.blocks and self.sampler != "instance":
            raise ValueError(f"`blocks` requires sampler `instance`, not `{self.sampler}`")
        return self


def _require_candidates(taus: tuple[float, ...]) -> tuple[float, ...]:
    if not taus:
        raise ValueError("expected at least one candidate")
    return taus


class Ce(Section):
    """The unchanged finetuned classifier or, with `training`, a linear probe on the features."""

    method: Literal["ce"]
    training: HeadTraining | None = None
    """Training settings for the linear probe; required without finetuning (`finetune: null` or features from files)."""


class Tau(Section):
    """Tau-normalised classifier (Kang et al. 2020). Tau is selected by the accuracy on val."""

    method: Literal["tau"]
    taus: tuple[NonNegativeFloat, ...]
    """Candidate values of tau."""

    @field_validator("taus")
    @classmethod
    def _at_least_one(cls, taus: tuple[float, ...]) -> tuple[float, ...]:
        return _require_candidates(taus)


class Crt(Section):
    """Classifier re-training (Kang et al. 2020): a new linear classifier on the frozen backbone."""

    method: Literal["crt"]
    training: HeadTraining


class Lws(Section):
    """Learnable weight scaling (Kang et al. 2020): one learned factor per class for the frozen classifier."""

    method: Literal["lws"]
    training: HeadTraining


class Ncm(Section):
    """Nearest class mean (Kang et al. 2020), with centred and L2-normalised features. Nothing is trained."""

    method: Literal["ncm"]


class LogitAdjustment(Section):
    """Post-hoc logit adjustment (Menon et al. 2021): finetuned logits minus tau log prior. Tau is selected on val."""

    method: Literal["logit_adjustment"]
    taus: tuple[NonNegativeFloat, ...]
    """Candidate values of tau; the theory gives 1."""

    @field_validator("taus")
    @classmethod
    def _at_least_one(cls, taus: tuple[float, ...]) -> tuple[float, ...]:
        return _require_candidates(taus)


class LogitAdjustedLoss(Section):
    """A new linear classifier, trained with the logit-adjusted loss (Menon et al. 2021).

    The loss is the cross-entropy of logits plus tau log prior. Evaluation uses the plain logits.
    """

    method: Literal["logit_adjusted_loss"]
    tau: PositiveFloat
    """Strength of the adjustment; the theory gives 1."""
    training: HeadTraining


class BalancedSoftmax(Section):
    """A new linear classifier, trained with balanced softmax (Ren et al. 2020).

    The loss is the cross-entropy of logits plus log class counts. Evaluation uses the plain logits. This equals
    `logit_adjusted_loss` with tau 1.
    """

    method: Literal["balanced_softmax"]
    training: HeadTraining


class Mem(Section):
    """Mutual exclusive modulator (section 3 of the paper).

    docs/explanation/mem.md describes what the paper leaves open.
    """

    method: Literal["mem"]
    partition: Literal["shot", "random_even", "cardinality_even"]
    """Assignment of classes to groups: by the thresholds in `shots`, randomly into groups of equal size, or into groups
    of equal size after sorting by the number of training images."""
    groups: PositiveInt = 3
    """Number of groups; always 3 for `shot`."""
    partition_seed: NonNegativeInt = 0
    """Seed for the partition `random_even`."""
    input: Literal["pooled", "tokens"]
    """Input of the sub-networks: the pooled feature, or the patch tokens, which require `features.tokens`."""
    width: PositiveInt
    """Embedding dimension of a sub-network."""
    depth: NonNegativeInt
    """Transformer blocks of a sub-network after its linear embedding."""
    xi: PositiveFloat
    """Margin in eq. 3: lower bound for a sub-network's norm on images of the sub-network's group."""
    mu: NonNegativeFloat
    """Margin in eq. 3: upper bound for a sub-network's norm on all other images."""
    top_k: PositiveInt
    """Number of largest logits per group that the fusion uses as input (eq. 7). Smaller groups use all their logits."""
    reo_weight: NonNegativeFloat
    """Weight of the regularisation objective in eq. 10; the paper uses 1."""
    fusion_width: PositiveInt
    """Hidden width of the fusion's two-layer perceptron."""
    weight: Literal["free", "softplus", "exp", "residual", "additive"]
    """Group weight w as a function of the fusion output o: o, softplus(o), exp(o), 1 + o, or o added to the logits
    instead of multiplied with them. With every variant, the initial MEM head predicts the same as the classifier that
    it modulates."""
    classifier: Literal["frozen", "trained"]
    """Whether the linear classifier is trained jointly with the modulator."""
    classifier_from: Annotated[Name, Unkeyed("train_head")]
    """Name of the head that provides MEM's initial linear classifier: a head of this study with the method `ce`, `crt`,
    `balanced_softmax` or `logit_adjusted_loss`."""
    training: HeadTraining

    def without_effect(self) -> frozenset[str]:
        """Return the seed of the random partition if the partition is not random."""
        return frozenset() if self.partition == "random_even" else frozenset(("partition_seed",))

    @model_validator(mode="after")
    def _consistent(self) -> Mem:
        if self.partition == "shot" and self.groups != 3:
            raise ValueError(f"partition `shot` has 3 groups, but groups is {self.groups}")
        if self.mu >= self.xi:
            raise ValueError(f"mu ({self.mu:g}) must be smaller than xi ({self.xi:g})")
        return self


Head = Annotated[
    Ce | Tau | Crt | Lws | Ncm | LogitAdjustment | LogitAdjustedLoss | BalancedSoftmax | Mem,
    Field(discriminator="method"),
]

TRAINED_LINEAR = (Crt, LogitAdjustedLoss, BalancedSoftmax)
"""Heads that train a new linear classifier, which MEM can use as its initial classifier."""
