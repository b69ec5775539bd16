"""Base classes of the settings for objectives of finetuning."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import NonNegativeFloat, PositiveFloat, model_validator

from mem.config.base import OpenFraction, Section


class ObjectiveSection(Section):
    """Base class of the objectives."""

    defines_soft_targets: ClassVar[bool] = True
    """Whether the objective is defined for mixed samples (mixup, CutMix) and for label smoothing."""
    requires_cosine: ClassVar[bool] = False
    """Whether the objective requires a cosine classifier (`finetune.cosine_scale`)."""
    requires_experts: ClassVar[bool] = False
    """Whether the loss is defined for several experts (`finetune.experts`) and gets the logits of each of them."""
    whole_batch: ClassVar[bool] = False
    """Whether the objective requires the logits of the complete global batch, which ranks then exchange."""

    @property
    def trains_sigmoids(self) -> bool:
        """Whether the loss contains one sigmoid per class instead of a softmax over the classes."""
        return False

    def check_experts(self, number: int) -> None:
        """Check that the objective is defined for a number of experts.

        Raises:
            ValueError: It is not.
        """

    def check_classes(self, number: int) -> None:
        """Check that the objective is defined for a number of classes.

        Raises:
            ValueError: It is not.
        """

    def check_training(self, sampler: str, epochs: float) -> None:
        """Check that the objective is defined for the settings of the training.

        Args:
            sampler: Name of the sampler (`finetune.sampler`).
            epochs: Number of epochs.

        Raises:
            ValueError: It is not.
        """


class MarginObjective(ObjectiveSection):
    """Base class of the objectives with the margins and the deferred re-weighting of LDAM (Cao et al. 2019).

    They require a cosine classifier (`finetune.cosine_scale`), to whose cosines the margins apply.
    """

    defines_soft_targets: ClassVar[bool] = False
    requires_cosine: ClassVar[bool] = True
    max_margin: PositiveFloat
    """Margin of the smallest class; the publication uses 0.5."""
    reweight_from_epoch: NonNegativeFloat | None
    """Epoch from which samples are weighted by the effective number of their class (deferred re-weighting, DRW).
    `null`: never."""
    beta: OpenFraction | None = None
    """Parameter of the effective number (1 - beta^n) / (1 - beta) for the deferred re-weighting; the publication uses
    0.9999."""
    name: Any
    """Name of the objective, of which each subclass allows only one."""

    @model_validator(mode="after")
    def _beta_for_reweighting(self) -> MarginObjective:
        if (self.beta is None) != (self.reweight_from_epoch is None):
            raise ValueError("beta: is required with `reweight_from_epoch`, and only then")
        return self

    def check_training(self, sampler: str, epochs: float) -> None:
        """Check that deferred re-weighting begins before the end, with the sampler for which it is defined."""
        start = self.reweight_from_epoch
        if start is None:
            return
        if start >= epochs:
            raise ValueError(f"objective.reweight_from_epoch ({start:g}) must be smaller than epochs ({epochs:g})")
        if sampler != "instance":
            raise ValueError(
                f"sampler `{sampler}`: the deferred re-weighting of `{self.name}` is defined for the sampler "
                "`instance`; set sampler to instance, or objective.reweight_from_epoch to null"
            )
