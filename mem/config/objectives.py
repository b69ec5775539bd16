"""Settings for the objective of finetuning: a loss that may depend on the numbers of training images per class."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, model_validator

from mem.config.base import OpenFraction, accept_name
from mem.config.contrastive_objectives import PacoObjective
from mem.config.expert_objectives import AceObjective, NclObjective, RideObjective, SadeObjective
from mem.config.objective_section import MarginObjective, ObjectiveSection


class CrossEntropyObjective(ObjectiveSection):
    """Cross-entropy. It does not depend on the class counts."""

    name: Literal["cross_entropy"]


class BalancedSoftmaxObjective(ObjectiveSection):
    """Balanced softmax (Ren et al. 2020, eq. 4): cross-entropy of logits plus log class counts.

    Predictions use the plain logits. This equals `logit_adjustment` with tau 1.
    """

    name: Literal["balanced_softmax"]


class LogitAdjustmentObjective(ObjectiveSection):
    """Logit-adjusted loss (Menon et al. 2021, eq. 10): cross-entropy of logits plus tau log prior.

    Predictions use the plain logits.
    """

    name: Literal["logit_adjustment"]
    tau: PositiveFloat
    """Strength of the adjustment; the theory gives 1."""


class LadeObjective(ObjectiveSection):
    """LADE (Hong et al. 2021): balanced softmax plus a regulariser that makes logits estimate log p(x | y) / p(x).

    The regulariser depends on the complete global batch.
    """

    defines_soft_targets: ClassVar[bool] = False
    whole_batch: ClassVar[bool] = True
    name: Literal["lade"]
    regulariser_weight: NonNegativeFloat
    """Weight of the regulariser (alpha in the publication)."""
    quadratic_weight: NonNegativeFloat
    """Weight of the quadratic term within the regulariser (lambda in the publication)."""


class BalancedBceObjective(ObjectiveSection):
    """Balanced binary cross-entropy of LiVT (Xu et al. 2023).

    One sigmoid per class, with logits plus tau (log prior - log(1 - prior)). Predictions use the plain logits.
    """

    name: Literal["balanced_bce"]
    tau: PositiveFloat
    """Strength of the adjustment; the publication uses 1."""

    @property
    def trains_sigmoids(self) -> bool:
        """Always true."""
        return True


class LdamObjective(MarginObjective):
    """LDAM (Cao et al. 2019): cross-entropy with a margin per class that is proportional to n_k^(-1/4).

    It requires a cosine classifier (`finetune.cosine_scale`), to whose cosines the margins apply.
    """

    name: Literal["ldam"]


class ClassBalancedObjective(ObjectiveSection):
    """Class-balanced loss (Cui et al. 2019): samples are weighted by the inverse effective number of their class.

    The weights are scaled so that they add up to the number of classes.
    """

    defines_soft_targets: ClassVar[bool] = False
    name: Literal["class_balanced"]
    beta: OpenFraction
    """Parameter of the effective number (1 - beta^n) / (1 - beta); the publication uses 0.9 to 0.9999."""
    loss: Literal["softmax", "sigmoid", "focal"]
    """Weighted loss: softmax cross-entropy, the sum over classes of binary cross-entropies, or the sum over classes of
    sigmoid focal losses. The sigmoid losses subtract log(C - 1) from the logits of C classes, so that each class has
    the probability 1 / C if the logits are 0."""
    gamma: NonNegativeFloat | None = None
    """Exponent of the focal loss; required for `focal`, not allowed otherwise."""

    @property
    def trains_sigmoids(self) -> bool:
        """True for the losses `sigmoid` and `focal`."""
        return self.loss != "softmax"

    @model_validator(mode="after")
    def _gamma_for_focal(self) -> ClassBalancedObjective:
        if (self.gamma is None) == (self.loss == "focal"):
            raise ValueError("gamma: is required for `loss: focal`, and only then")
        return self


class FocalObjective(ObjectiveSection):
    """Softmax focal loss (Lin et al. 2017, as used by Cao et al. 2019): (1 - p_y)^gamma times the cross-entropy."""

    defines_soft_targets: ClassVar[bool] = False
    name: Literal["focal"]
    gamma: NonNegativeFloat
    """Exponent; 0 gives the cross-entropy."""


Objective = Annotated[
    Annotated[
        CrossEntropyObjective
        | BalancedSoftmaxObjective
        | LogitAdjustmentObjective
        | LadeObjective
        | BalancedBceObjective
        | LdamObjective
        | ClassBalancedObjective
        | FocalObjective
        | RideObjective
        | SadeObjective
        | NclObjective
        | AceObjective
        | PacoObjective,
        Field(discriminator="name"),
    ],
    accept_name("name"),
]

CROSS_ENTROPY = CrossEntropyObjective(name="cross_entropy")
"""The default objective."""
