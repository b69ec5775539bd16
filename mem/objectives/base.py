"""The base class of the objectives of finetuning, and what several of them share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from mem.objectives.projections import Projections


@dataclass(frozen=True)
class Targets:
    """Targets of a batch, and the position in training."""

    labels: Int64[Tensor, " samples"]
    partner_labels: Int64[Tensor, " samples"] | None = None
    """Labels of the images that were mixed in, or None if samples are not mixed."""
    shares: Float[Tensor, " samples"] | None = None
    """Weight of `labels` in a mixed sample. The weight of `partner_labels` is 1 minus this value."""
    epoch: float = 0.0
    """Number of epochs since the start of training, including the current fraction."""
    projections: Projections | None = None
    """Projections of two views of each image, for contrastive losses."""

    def __post_init__(self) -> None:
        if (self.partner_labels is None) != (self.shares is None):
            raise ValueError("found only one of partner_labels and shares; mixed samples require both")

    @property
    def mixed(self) -> tuple[Int64[Tensor, " samples"], Float[Tensor, " samples"]] | None:
        """The partner labels and the shares of mixed samples, or None if samples are not mixed."""
        if self.partner_labels is None or self.shares is None:
            return None
        return self.partner_labels, self.shares


class FinetuningLoss(nn.Module, ABC):
    """A loss with one value per sample, whose mean over the samples is the loss.

    With experts, the value of a sample is the mean of its values for the logits of each expert, unless
    `requires_experts` is set.

    It has no parameters. Constants of the classes are buffers that are not saved.

    Args:
        classes: Number of classes.
    """

    accepts_mixed_samples: ClassVar[bool] = True
    """Whether the loss is defined for samples with two labels."""
    requires_experts: ClassVar[bool] = False
    """Whether the loss is defined for the logits of several experts. `values` then receives all of them."""
    expert_lr_factors: tuple[float, ...] | None = None
    """Ratio of each expert's learning rate to that of the shared layers. None: they are equal."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, logits: Float[Tensor, "samples *experts classes"], targets: Targets) -> Float[Tensor, " samples"]:
        """Return one value per sample, in float32 or, for float64 logits, in float64.

        Raises:
            ValueError: The number of logits is not the number of classes, samples are mixed although the loss is not
                defined for them, or there are no experts although the loss requires them.
        """
        if logits.shape[-1] != self.classes:
            raise ValueError(
                f"{type(self).__name__}: found logits of {logits.shape[-1]} classes, but training counts of "
                f"{self.classes} classes; build the model and the objective for the same dataset"
            )
        if targets.mixed and not self.accepts_mixed_samples:
            raise ValueError(f"{type(self).__name__}: not defined for mixed samples; train without mixup and CutMix")
        has_experts = logits.ndim == 3
        if self.requires_experts and not has_experts:
            raise ValueError(
                f"{type(self).__name__}: requires the logits of several experts; build a model with experts"
            )
        if has_experts and not self.requires_experts:
            return torch.stack([self.values(expert, targets) for expert in logits.unbind(1)]).mean(dim=0)
        return self.values(logits, targets)

    def predictions(self, logits: Float[Tensor, "samples *experts classes"]) -> Float[Tensor, "samples classes"]:
        """Return the logits with which a model predicts: of several experts, the mean."""
        return ensemble_logits(logits)

    def required_projections(self, targets: Targets) -> Projections:
        """Return the projections that a contrastive loss requires.

        Raises:
            ValueError: There are none.
        """
        if targets.projections is None:
            raise ValueError(
                f"{type(self).__name__}: found no projections; train with a ContrastiveClassifier and two views"
            )
        return targets.projections

    @abstractmethod
    def values(self, logits: Float[Tensor, "samples *experts classes"], targets: Targets) -> Float[Tensor, " samples"]:
        """Return one value per sample. `forward` has checked the arguments.

        The logits have a dimension for the experts if `requires_experts` is set, and only then.
        """


def ensemble_logits(logits: Float[Tensor, "samples *experts classes"]) -> Float[Tensor, "samples classes"]:
    """Return the mean of the experts' logits, with which a model with experts predicts.

    Logits without a dimension for experts are returned unchanged.
    """
    return logits if logits.ndim == 2 else at_least_float32(logits).mean(dim=1)


def at_least_float32(
    logits: Float[Tensor, "samples *experts classes"],
) -> Float[Tensor, "samples *experts classes"]:
    """Convert logits of a lower precision to float32.

    Under autocast, logits are bfloat16, in which an offset or a margin would lose most of its digits.
    """
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def is_label(labels: Int64[Tensor, " samples"], classes: int) -> Bool[Tensor, "samples {classes}"]:
    """Return whether each class (column) is the label of each sample (row)."""
    return labels[:, None] == torch.arange(classes, device=labels.device)
