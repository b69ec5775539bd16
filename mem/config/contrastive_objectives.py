"""Settings for contrastive objectives, which compare two views of each image with the keys of a queue."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

from mem.config.augmentation import Augmentation
from mem.config.base import OpenFraction, Section
from mem.config.objective_section import ObjectiveSection


class Contrast(Section):
    """Momentum contrast (He et al. 2020, MoCo): a key encoder that follows the trained network, and a queue of keys.

    Each image has two views. The trained network computes a projection of the first view (the query), and the key
    encoder computes one of the second view (the key).
    """

    queue: PositiveInt
    """Number of keys in the queue; a multiple of `global_batch`."""
    width: PositiveInt
    """Dimension of a projection."""
    temperature: PositiveFloat
    """Temperature by which the cosines of projections are divided."""
    momentum: OpenFraction
    """Weight of the previous weights of the key encoder in each step; the publications use 0.999."""
    projector_norm: bool
    """Whether the hidden layer of the projector is followed by BatchNorm. PaCo: true, NCL: false."""
    second_view: Augmentation | None = None
    """Augmentation of the second view. Default: `finetune.augmentation`."""


class PacoObjective(ObjectiveSection):
    """PaCo (Cui et al. 2021): contrast with class centres, with other samples and with the keys of a queue.

    The class centres are the weights of the linear classifier, whose logits plus log prior compete with the
    similarities of samples in one softmax. Predictions use the plain logits.
    """

    defines_soft_targets: ClassVar[bool] = False
    name: Literal["paco"]
    sample_weight: NonNegativeFloat
    """Weight of each other sample of the same class (alpha in the publication); the weight of the class centre is 1."""
    contrast: Contrast

    def check_experts(self, number: int) -> None:
        """Reject experts.

        Raises:
            ValueError: Always, because PaCo has one set of class centres.
        """
        raise ValueError("objective `paco` is not defined for experts; remove experts, or choose another objective")
