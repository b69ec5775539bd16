"""Settings for objectives of several experts (`finetune.experts`)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from mem.config.contrastive_objectives import Contrast
from mem.config.objective_section import MarginObjective, ObjectiveSection


class RideObjective(MarginObjective):
    """RIDE (Wang et al. 2021), without distillation: LDAM for each expert, minus the divergence of the experts.

    It requires a cosine classifier (`finetune.cosine_scale`).
    """

    requires_experts: ClassVar[bool] = True
    name: Literal["ride"]
    diversity_weight: NonNegativeFloat
    """Weight of the divergence between the mean of the experts and each expert; the publication uses 0.2, and 0.45 on
    CIFAR-100-LT."""
    temperature: PositiveFloat
    """Temperature of the probabilities that are compared; the publication uses 1."""
    temperature_prior_weight: Annotated[float, Field(ge=0, lt=1)]
    """Dependence r of the class temperatures on the share of the class: from `reweight_from_epoch`, the temperature is
    proportional to C pi_k r + 1 - r, for C classes, and `temperature` is its maximum. The publication uses 0.02 to
    0.05."""


class SadeObjective(ObjectiveSection):
    """SADE, also TADE (Zhang et al. 2022): three experts for a long-tailed, a balanced and a reversed distribution.

    The loss is the sum of cross-entropy (expert 1), balanced softmax (expert 2) and inverse softmax (expert 3).
    """

    defines_soft_targets: ClassVar[bool] = False
    requires_experts: ClassVar[bool] = True
    name: Literal["sade"]
    tau: NonNegativeFloat
    """Strength of the reversed distribution of expert 3; the publication uses 2 (ImageNet-LT, CIFAR-100-LT) or 1."""

    def check_experts(self, number: int) -> None:
        """Check that there are three experts."""
        if number != 3:
            raise ValueError(f"objective `sade` is defined for 3 experts, but experts.number is {number}; set it to 3")


class NclObjective(ObjectiveSection):
    """NCL (Li et al. 2022): balanced softmax and mutual distillation of the experts, on all and on hard classes."""

    defines_soft_targets: ClassVar[bool] = False
    requires_experts: ClassVar[bool] = True
    name: Literal["ncl"]
    hard_classes: PositiveInt
    """Number N of hard classes per sample: its label, and the N - 1 other classes with the largest logits of expert 1.
    The publication uses 30 % of the classes."""
    mutual_weight: NonNegativeFloat
    """Weight of the mutual distillation; the publication uses 0.6."""
    contrast: Contrast | None = None
    """Momentum contrast of each expert, which the official code uses for Places-LT and CIFAR. Default: none."""
    contrast_weight: PositiveFloat | None = None
    """Weight of the contrastive losses, which are added up over the experts; the publication uses 1."""

    @model_validator(mode="after")
    def _weight_for_contrast(self) -> NclObjective:
        if (self.contrast is None) != (self.contrast_weight is None):
            raise ValueError("contrast_weight: is required with `contrast`, and only then")
        return self

    def check_classes(self, number: int) -> None:
        """Check that there are not more hard classes than classes."""
        if self.hard_classes > number:
            raise ValueError(
                f"objective.hard_classes is {self.hard_classes}, but the dataset has {number} classes; expected at "
                "most that many. The publication uses 30 % of the classes"
            )


class AceObjective(ObjectiveSection):
    """ACE (Cai et al. 2021): experts for nested subsets of the classes, which suppress the other classes.

    Built from the description in the publication, not verified against code.
    """

    defines_soft_targets: ClassVar[bool] = False
    requires_experts: ClassVar[bool] = True
    name: Literal["ace"]
    largest_counts: Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
    """Largest number of training images of the classes that experts 2, 3, ... own. Expert 1 owns all classes. For
    example, `[100, 19]` with the shot groups of Liu et al. (2019): expert 2 owns the medium-shot and few-shot classes,
    and expert 3 the few-shot classes."""
    suppression_weight: NonNegativeFloat
    """Weight of the squared logits of the classes that an expert does not own."""

    @model_validator(mode="after")
    def _subsets_are_nested(self) -> AceObjective:
        if any(a <= b for a, b in zip(self.largest_counts, self.largest_counts[1:], strict=False)):
            raise ValueError(f"largest_counts: expected decreasing numbers, got {list(self.largest_counts)}")
        return self

    def check_experts(self, number: int) -> None:
        """Check that each expert except for the first one has a number of images."""
        if number != len(self.largest_counts) + 1:
            raise ValueError(
                f"objective.largest_counts has {len(self.largest_counts)} numbers for experts 2, 3, ..., but "
                f"experts.number is {number}; give one number less than there are experts"
            )

    def check_training(self, sampler: str, epochs: float) -> None:
        """Check that the sampler visits all images equally often."""
        if sampler != "instance":
            raise ValueError(
                f"sampler `{sampler}`: the factors N / N_k of the loss `{self.name}` are defined for the sampler "
                "`instance`, which visits all images equally often; set sampler to instance, or change the objective"
            )
