"""Settings for heads that require the experts of a backbone: RIDE's router and SADE's aggregation."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import PositiveFloat, PositiveInt

from mem.config.base import OpenFraction
from mem.config.head_training import HeadSettings, HeadTraining


class RideRouter(HeadSettings):
    """RIDE's expert assignment (Wang et al. 2021): a router decides for each image how many experts are used.

    The router is trained; the experts are not. After each expert but the last, it predicts whether the ensemble so far
    is wrong while a larger one is right. Its inputs are the largest logits of the ensemble so far, and a hidden layer
    on the L2-normalised feature of the last expert.
    """

    requires_experts: ClassVar[bool] = True

    method: Literal["ride_router"]
    top_logits: PositiveInt
    """Number of largest logits in the router's input (`top_choices_num`). If there are fewer classes, all logits."""
    hidden_width: PositiveInt
    """Width of the hidden layer. The publication and the official code use 16."""
    positive_weight: PositiveFloat
    """Factor of the loss of images for which further experts help (`pos_weight`)."""
    threshold: OpenFraction
    """The next expert is used if the predicted probability that further experts help exceeds this number."""
    training: HeadTraining


class SadeAggregation(HeadSettings):
    """SADE's test-time aggregation (Zhang et al. 2022): a weighted mean of the logits of the experts.

    The stage `adapt` learns the weights from the test images, without their labels. The scores of this head are
    therefore *transductive*. They are marked in all tables, and the head is never chosen by its scores on val.
    """

    requires_experts: ClassVar[bool] = True
    transductive: ClassVar[bool] = True

    method: Literal["sade_aggregation"]
