"""Settings for heads on frozen features."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, field_validator

from mem.config.base import Section
from mem.config.control_heads import BlockClassifier, GroupConstants, LogitFusion
from mem.config.head_training import HeadTraining, OptionalStart
from mem.config.modulator import Mem


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
    """Tau-normalised classifier (Kang et al. 2020). Tau is selected on val."""

    method: Literal["tau"]
    taus: tuple[NonNegativeFloat, ...]
    """Candidate values of tau."""

    @field_validator("taus")
    @classmethod
    def _at_least_one(cls, taus: tuple[float, ...]) -> tuple[float, ...]:
        return _require_candidates(taus)


class Crt(Section):
    """Classifier re-training (Kang et al. 2020): a linear classifier, trained again on the frozen backbone."""

    method: Literal["crt"]
    classifier_from: OptionalStart = None
    """Name of a head of this study whose linear classifier is trained further. Default: a new classifier, as in the
    publication."""
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
    """A linear classifier that is trained with the logit-adjusted loss (Menon et al. 2021).

    The loss is the cross-entropy of logits plus tau log prior. Evaluation uses the plain logits.
    """

    method: Literal["logit_adjusted_loss"]
    tau: PositiveFloat
    """Strength of the adjustment; the theory gives 1."""
    classifier_from: OptionalStart = None
    """Name of a head of this study whose linear classifier is trained further. Default: a new classifier."""
    training: HeadTraining


class BalancedSoftmax(Section):
    """A linear classifier that is trained with balanced softmax (Ren et al. 2020).

    The loss is the cross-entropy of logits plus log class counts. Evaluation uses the plain logits. This equals
    `logit_adjusted_loss` with tau 1.
    """

    method: Literal["balanced_softmax"]
    classifier_from: OptionalStart = None
    """Name of a head of this study whose linear classifier is trained further. Default: a new classifier."""
    training: HeadTraining


Head = Annotated[
    Ce
    | Tau
    | Crt
    | Lws
    | Ncm
    | LogitAdjustment
    | LogitAdjustedLoss
    | BalancedSoftmax
    | Mem
    | GroupConstants
    | LogitFusion
    | BlockClassifier,
    Field(discriminator="method"),
]


def uses_tokens(head: Head) -> bool:
    """Return whether a head uses tokens in addition to the pooled feature."""
    return getattr(head, "input", "pooled") == "tokens"


def uses_shots(head: Head) -> bool:
    """Return whether a head depends on the shot groups of the classes."""
    training: HeadTraining | None = getattr(head, "training", None)
    samples_groups = training is not None and training.sampler == "group_balanced"
    return getattr(head, "partition", None) == "shot" or samples_groups
