"""The regularisation objective of section 3.1 of the paper (eq. 1 to 5)."""

from __future__ import annotations

from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F


def regularisation_objective(
    norms: Float[Tensor, "samples groups"], group_of_sample: Int64[Tensor, " samples"], xi: float, mu: float
) -> Float[Tensor, ""]:
    """Return L_REO, which pushes a sub-network's norm above `xi` for images of its group and below `mu` for others.

    Eq. 3 averages separately over the positives and the negatives of each group, so that rare and frequent groups have
    equal weight. Eq. 4 adds the two means, and eq. 5 sums over the groups. The mean over an empty set is defined as 0.

    Args:
        norms: Norms Q_g(z_i), one column per group.
        group_of_sample: Group of each sample's class.
        xi: Margin for positives (samples of the group).
        mu: Margin for negatives (all other samples).
    """
    positive = F.one_hot(group_of_sample, norms.shape[1]).to(norms.dtype)
    negative = 1 - positive
    too_small = F.relu(xi - norms).square() * positive
    too_large = F.relu(norms - mu).square() * negative
    positive_mean = too_small.sum(dim=0) / positive.sum(dim=0).clamp(min=1)
    negative_mean = too_large.sum(dim=0) / negative.sum(dim=0).clamp(min=1)
    return (positive_mean + negative_mean).sum()
