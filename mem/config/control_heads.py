"""Settings for heads that are controls for MEM: each lacks a part of the modulator, or replaces it by a plain one."""

from __future__ import annotations

from typing import Literal

from pydantic import NonNegativeInt, PositiveInt, model_validator

from mem.config.head_training import HeadSettings, HeadTraining, OptionalStart, PerExpert, RequiredStart


class _Partitioned(HeadSettings):
    """A head with groups of classes. The settings are those of MEM."""

    partition: Literal["shot", "random_even", "cardinality_even"]
    """Assignment of classes to groups: by the thresholds in `shots`, randomly into groups of equal size, or into groups
    of equal size after sorting by the number of training images."""
    groups: PositiveInt = 3
    """Number of groups; always 3 for `shot`."""
    partition_seed: NonNegativeInt = 0
    """Seed for the partition `random_even`."""

    def without_effect(self) -> frozenset[str]:
        """Return the seed of the random partition if the partition is not random."""
        return frozenset() if self.partition == "random_even" else frozenset(("partition_seed",))

    @model_validator(mode="after")
    def _three_shot_groups(self) -> _Partitioned:
        if self.partition == "shot" and self.groups != 3:
            raise ValueError(f"partition `shot` has 3 groups, but groups is {self.groups}")
        return self


class GroupConstants(_Partitioned):
    """A frozen linear classifier with learned constants for each group of classes, which do not depend on the image.

    A control for MEM: it shows how much of MEM's gain needs no modulator.
    """

    method: Literal["group_constants"]
    constants: Literal["offset", "factor", "both"]
    """What is learned for each group: an offset that is added to its logits, a factor that multiplies its logits, or
    both. The initial head predicts the same as the classifier."""
    classifier_from: RequiredStart
    """Name of the head that provides the classifier: a head of this study that is a linear classifier when it
    predicts."""
    per_expert: PerExpert = False
    training: HeadTraining


class LogitFusion(_Partitioned):
    """MEM without sub-networks: the fusion (eq. 7) computes the group weights from the top logits alone.

    A control for MEM: it shows how much of MEM's gain needs no group norms and no regularisation objective.
    """

    method: Literal["logit_fusion"]
    top_k: PositiveInt
    """Number of largest logits per group that the fusion uses as input. Smaller groups use all their logits."""
    fusion_width: PositiveInt
    """Hidden width of the fusion's two-layer perceptron."""
    weight: Literal["free", "softplus", "exp", "residual", "softmax", "sigmoid", "additive", "mixture"]
    """Group weight w as a function of the fusion output, as in MEM."""
    classifier: Literal["frozen", "trained"]
    """Whether the linear classifier is trained jointly with the fusion."""
    classifier_from: RequiredStart
    """Name of the head that provides the initial classifier: a head of this study that is a linear classifier when it
    predicts."""
    prior_in_loss: bool = False
    """Whether the log prior of the classes is added to the logits in the loss, as in MEM."""
    per_expert: PerExpert = False
    training: HeadTraining

    @model_validator(mode="after")
    def _prior_of_the_samples(self) -> LogitFusion:
        _require_instance_sampler(self.prior_in_loss, self.training)
        return self


class BlockClassifier(HeadSettings):
    """Transformer blocks on the inputs of MEM's sub-networks, followed by a linear classifier, without groups.

    A control for MEM: it has the same inputs and as many parameters as needed, but no modulator.
    """

    method: Literal["block_classifier"]
    input: Literal["pooled", "tokens"]
    """Input of the blocks: the pooled feature, or the patch tokens, which require `features.tokens`."""
    width: PositiveInt
    """Width of the blocks, after a linear embedding of their input."""
    depth: NonNegativeInt
    """Number of transformer blocks."""
    classifier: Literal["frozen", "trained"] = "trained"
    """Whether the classifier of `classifier_from` is trained jointly with the blocks."""
    classifier_from: OptionalStart = None
    """Name of a head of this study whose linear classifier contributes to the logits. The logits of the blocks are
    added to its logits and are 0 initially. Default: only the blocks contribute."""
    prior_in_loss: bool = False
    """Whether the log prior of the classes is added to the logits in the loss, as in `logit_adjusted_loss` with tau 1.
    Evaluation uses the logits without the prior. Requires the sampler `instance`."""
    per_expert: PerExpert = False
    training: HeadTraining

    def without_effect(self) -> frozenset[str]:
        """Return the setting of the classifier if there is none."""
        return frozenset(("classifier",)) if self.classifier_from is None else frozenset()

    @model_validator(mode="after")
    def _prior_of_the_samples(self) -> BlockClassifier:
        _require_instance_sampler(self.prior_in_loss, self.training)
        return self


def _require_instance_sampler(prior_in_loss: bool, training: HeadTraining) -> None:
    if prior_in_loss and training.sampler != "instance":
        raise ValueError(
            f"prior_in_loss: requires the sampler `instance`, not `{training.sampler}`, because the prior is that of "
            "the training images"
        )
