"""Settings of the stage `adapt`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from mem.config.augmentation import Augmentation, check_without_erasing
from mem.config.base import OpenFraction, Section


class Adapt(Section):
    """Test-time aggregation (Zhang et al. 2022): learns one weight per expert on the test images, without labels.

    The weights are a softmax and start from 1 / experts. SGD maximises the cosine similarity between the predicted
    probabilities of two augmented views of each test image. The learning rate is constant.
    """

    epochs: PositiveFloat
    """Maximum number of passes over the test images."""
    global_batch: PositiveInt
    """Images per optimizer step. It cannot exceed the number of test images."""
    lr: PositiveFloat
    """Learning rate. The official code uses that of finetuning."""
    momentum: Annotated[float, Field(ge=0, lt=1)]
    nesterov: bool
    """Whether SGD uses Nesterov momentum."""
    weight_decay: NonNegativeFloat
    """Weight decay of the parameters to which the softmax is applied."""
    stop_below: OpenFraction
    """Learning ends after an epoch in which a weight falls below this number."""
    augmentation: Augmentation
    """Augmentation of the two views of each test image."""

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> Adapt:
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov requires a momentum above 0")
        return self

    @model_validator(mode="after")
    def _views_differ(self) -> Adapt:
        views = self.augmentation
        if not _changes(views):
            raise ValueError(
                "augmentation: the two views of an image would be equal, but the weights are learned from their "
                "difference; set a minimum of crop_scale below 1, for example 0.2, flip or color_jitter"
            )
        check_without_erasing(views)
        return self


def _changes(views: Augmentation) -> bool:
    """Return whether two views of an image can differ."""
    operations, blur = views.rand_augment, views.blur
    return (
        views.crop_scale != (1, 1)
        or views.flip
        or (operations is not None and operations.probability > 0)
        or any(views.color_jitter)
        or 0 < views.grayscale < 1
        or (blur is not None and blur.probability > 0 and (blur.probability < 1 or blur.sigma[0] < blur.sigma[1]))
    )
