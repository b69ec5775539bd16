"""Cosine classifier: logits are a scale times the cosines between a feature and one weight vector per class.

It is the classifier of LDAM (Cao et al. 2019). The logits are bounded and do not depend on the norms of the weight
vectors. Source: the layer `NormedLinear` of kaidic/LDAM-DRW (models/resnet_cifar.py at 2536330), whose logits lack the
scale because its loss multiplies by it; predictions are the same. As there, a vector with a norm below 1e-12 is divided
by 1e-12, so that the cosine of a zero vector is 0.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


class CosineLinear(nn.Linear):
    """A classification layer with logits s cos(w_k, z) and no bias.

    The initial weight vectors have random directions and norm 1. Their norms do not affect the logits, but a gradient
    step changes the direction of a vector in inverse proportion to its norm.

    Args:
        width: Dimension of the features.
        classes: Number of classes.
        scale: The scale s.
    """

    def __init__(self, width: int, classes: int, scale: float) -> None:
        super().__init__(width, classes, bias=False)
        self.scale = scale
        with torch.no_grad():
            self.weight.copy_(F.normalize(self.weight.uniform_(-1, 1), dim=1))

    def forward(self, input: Float[Tensor, "samples width"]) -> Float[Tensor, "samples classes"]:
        """Return the logits."""
        return cosine_logits(input, self.weight, self.scale)

    def extra_repr(self) -> str:
        """Describe the layer."""
        return f"{super().extra_repr()}, scale={self.scale:g}"


def cosine_logits(
    features: Float[Tensor, "samples width"], weight: Float[Tensor, "classes width"], scale: float
) -> Float[Tensor, "samples classes"]:
    """Return the scale times the cosine between each feature and each class's weight vector.

    Under autocast, the cosines are computed in float32: a scale of 30 would multiply the rounding of bfloat16.
    """
    with torch.autocast(features.device.type, enabled=False):
        directions = F.normalize(features.to(weight.dtype), dim=1)
        return scale * F.linear(directions, F.normalize(weight, dim=1))
