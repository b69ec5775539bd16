"""Settings for heads on frozen features."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, TypeVar

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, field_validator, model_validator

from mem.config.base import Fraction
from mem.config.class_embeddings import ZeroShot
from mem.config.control_heads import BlockClassifier, GroupConstants, LogitFusion
from mem.config.expert_heads import RideRouter, SadeAggregation
from mem.config.head_training import CosineScale, HeadSettings, HeadTraining, OptionalStart, PerExpert
from mem.config.modulator import Mem

HeadT = TypeVar("HeadT", bound=HeadSettings)


def _require_candidates(taus: tuple[float, ...]) -> tuple[float, ...]:
    if not taus:
        raise ValueError("expected at least one candidate")
    return taus


def _require_new_classifier(head: HeadT) -> HeadT:
    """Check that a cosine classifier starts from new weights."""
    if getattr(head, "cosine_scale", None) is not None and getattr(head, "classifier_from", None) is not None:
        raise ValueError(
            "cosine_scale: a cosine classifier cannot start from the linear classifier of another head; remove "
            "`classifier_from`, or remove `cosine_scale`"
        )
    return head


class Ce(HeadSettings):
    """The unchanged finetuned classifier or, with `training`, a linear probe on the features."""

    method: Literal["ce"]
    cosine_scale: CosineScale = None
    training: HeadTraining | None = None
    """Training settings for the linear probe; required without finetuning (`finetune: null` or features from files)."""

    @model_validator(mode="after")
    def _cosine_probe_is_trained(self) -> Ce:
        if self.cosine_scale is not None and self.training is None:
            raise ValueError("cosine_scale: is for a linear probe, which requires `training`; remove it")
        return self


class Finetuned(HeadSettings):
    """The unchanged classifier of a finetuning whose objective is not cross-entropy. Nothing is trained."""

    method: Literal["finetuned"]


class Ensemble(HeadSettings):
    """The unchanged classifiers of some or all experts of a finetuned backbone. Nothing is trained.

    With all experts and the average of the logits, this equals the methods `ce` and `finetuned`.
    """

    requires_experts: ClassVar[bool] = True

    method: Literal["ensemble"]
    experts: tuple[PositiveInt, ...] | None = None
    """Numbers of the experts, from 1. Default: all experts."""
    average: Literal["logits", "probabilities"] = "logits"
    """What is averaged over the experts."""

    @field_validator("experts")
    @classmethod
    def _distinct(cls, experts: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if experts is not None and (not experts or len(set(experts)) != len(experts)):
            raise ValueError(f"expected at least one expert, and each expert once, found {list(experts)}")
        return experts


class Tau(HeadSettings):
    """Tau-normalised classifier (Kang et al. 2020). Tau is selected on val."""

    method: Literal["tau"]
    taus: tuple[NonNegativeFloat, ...]
    """Candidate values of tau."""

    @field_validator("taus")
    @classmethod
    def _at_least_one(cls, taus: tuple[float, ...]) -> tuple[float, ...]:
        return _require_candidates(taus)


class Crt(HeadSettings):
    """Classifier re-training (Kang et al. 2020): a linear classifier, trained again on the frozen backbone."""

    method: Literal["crt"]
    classifier_from: OptionalStart = None
    """Name of a head of this study whose linear classifier is trained further. Default: a new classifier, as in the
    publication."""
    cosine_scale: CosineScale = None
    per_expert: PerExpert = False
    training: HeadTraining
    _new_if_cosine = model_validator(mode="after")(_require_new_classifier)


class Lws(HeadSettings):
    """Learnable weight scaling (Kang et al. 2020): one learned factor per class for the frozen classifier."""

    method: Literal["lws"]
    per_expert: PerExpert = False
    training: HeadTraining


class Mislas(HeadSettings):
    """Stage 2 of MiSLAS (Zhong et al. 2021): label-aware smoothing with one learned factor per class.

    The logits are s_k (W_k z + b_k). The classifier starts from the finetuned classifier and is trained with a small
    learning rate; the factors start from 1 and are trained with the learning rate of `training`.
    """

    method: Literal["mislas"]
    smoothing_head: Fraction
    """Label smoothing of the class with the most training images (epsilon_1 or `smooth_head`)."""
    smoothing_tail: Fraction
    """Label smoothing of the class with the fewest training images (epsilon_K or `smooth_tail`)."""
    classifier_lr_factor: PositiveFloat
    """Ratio of the classifier's learning rate to that of the factors (`lr_factor`)."""
    per_expert: PerExpert = False
    training: HeadTraining


class Ncm(HeadSettings):
    """Nearest class mean (Kang et al. 2020), with centred and L2-normalised features. Nothing is trained."""

    method: Literal["ncm"]


class LogitAdjustment(HeadSettings):
    """Post-hoc logit adjustment (Menon et al. 2021): finetuned logits minus tau log prior. Tau is selected on val."""

    method: Literal["logit_adjustment"]
    taus: tuple[NonNegativeFloat, ...]
    """Candidate values of tau; the theory gives 1."""
    classifier_from: OptionalStart = None
    """Name of a head of this study whose linear classifier is adjusted, for example a zero-shot classifier. Default:
    the finetuned classifier or, without finetuning, the linear probe."""

    @field_validator("taus")
    @classmethod
    def _at_least_one(cls, taus: tuple[float, ...]) -> tuple[float, ...]:
        return _require_candidates(taus)


class LogitAdjustedLoss(HeadSettings):
    """A linear classifier that is trained with the logit-adjusted loss (Menon et al. 2021).

    The loss is the cross-entropy of logits plus tau log prior. Evaluation uses the plain logits.
    """

    method: Literal["logit_adjusted_loss"]
    tau: PositiveFloat
    """Strength of the adjustment; the theory gives 1."""
    classifier_from: OptionalStart = None
    """Name of a head of this study whose linear classifier is trained further. Default: a new classifier."""
    cosine_scale: CosineScale = None
    per_expert: PerExpert = False
    training: HeadTraining
    _new_if_cosine = model_validator(mode="after")(_require_new_classifier)


class BalancedSoftmax(HeadSettings):
    """A linear classifier that is trained with balanced softmax (Ren et al. 2020).

    The loss is the cross-entropy of logits plus log class counts. Evaluation uses the plain logits. This equals
    `logit_adjusted_loss` with tau 1.
    """

    method: Literal["balanced_softmax"]
    classifier_from: OptionalStart = None
    """Name of a head of this study whose linear classifier is trained further. Default: a new classifier."""
    cosine_scale: CosineScale = None
    per_expert: PerExpert = False
    training: HeadTraining
    _new_if_cosine = model_validator(mode="after")(_require_new_classifier)


Head = Annotated[
    Ce
    | Finetuned
    | Ensemble
    | Tau
    | Crt
    | Lws
    | Mislas
    | Ncm
    | ZeroShot
    | LogitAdjustment
    | LogitAdjustedLoss
    | BalancedSoftmax
    | Mem
    | GroupConstants
    | LogitFusion
    | BlockClassifier
    | RideRouter
    | SadeAggregation,
    Field(discriminator="method"),
]


def is_per_expert(head: Head) -> bool:
    """Return whether a head consists of one head per expert."""
    return getattr(head, "per_expert", False)


def uses_tokens(head: Head) -> bool:
    """Return whether a head uses tokens in addition to the pooled feature."""
    return getattr(head, "input", "pooled") == "tokens"


def uses_shots(head: Head) -> bool:
    """Return whether a head depends on the shot groups of the classes."""
    training: HeadTraining | None = getattr(head, "training", None)
    samples_groups = training is not None and training.sampler == "group_balanced"
    return getattr(head, "partition", None) == "shot" or samples_groups
