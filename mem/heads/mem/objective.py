"""The regularisation objective of the paper's section 3.1, eq. 1 to 5."""

from __future__ import annotations

from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F


def regularisation_objective(
    norms: Float[Tensor, "samples groups"], group_of: Int64[Tensor, " samples"], xi: float, mu: float
) -> Float[Tensor, ""]:
    """L_REO: norms above `xi` for images of a sub-network's group, under `mu` for all others.

    For each group, eq. 3 takes the mean over the batch's positives and the mean over its negatives apart, so that both
    count alike however rare the group is; eq. 4 adds the two, eq. 5 the groups. A side without images counts 0.

    Args:
        norms: Q_g(z_i), one column a group.
        group_of: The group of each image's class.
        xi: The margin of positives.
        mu: The margin of negatives.
    """
    positive = F.one_hot(group_of, norms.shape[1]).to(norms.dtype)
    negative = 1 - positive
    too_small = F.relu(xi - norms).square() * positive
    too_large = F.relu(norms - mu).square() * negative
    on_positives = too_small.sum(dim=0) / positive.sum(dim=0).clamp(min=1)
    on_negatives = too_large.sum(dim=0) / negative.sum(dim=0).clamp(min=1)
    return (on_positives + on_negatives).sum()
