"""Cross-entropy, which does not depend on the class counts."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from mem import losses
from mem.objectives.base import FinetuningLoss, Targets


class CrossEntropy(FinetuningLoss):
    """Cross-entropy with label smoothing, for single or mixed samples.

    Args:
        classes: Number of classes.
        smoothing: Label smoothing factor.
    """

    def __init__(self, classes: int, smoothing: float) -> None:
        super().__init__(classes)
        self.smoothing = smoothing

    def values(self, logits: Float[Tensor, "samples classes"], targets: Targets) -> Float[Tensor, " samples"]:
        """Return `mem.losses.cross_entropy`, or `mixed_cross_entropy` for mixed samples."""
        return smoothed_cross_entropy(logits, targets, self.smoothing)


def smoothed_cross_entropy(
    logits: Float[Tensor, "samples classes"], targets: Targets, smoothing: float
) -> Float[Tensor, " samples"]:
    """Return the cross-entropy with label smoothing. The targets of mixed samples are mixed in the same proportions."""
    if targets.mixed is None:
        return losses.cross_entropy(logits, targets.labels, smoothing)
    return losses.mixed_cross_entropy(logits, targets.labels, *targets.mixed, smoothing)
