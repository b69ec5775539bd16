"""The loss of momentum contrast (He et al. 2020, MoCo), summed over experts."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from mem.objectives.projections import Projections


def momentum_contrast(found: Projections, temperature: float) -> Float[Tensor, " samples"]:
    """Return, for each sample, the sum over the experts of the cross-entropies of finding its own key.

    The candidates are the sample's own key and the keys in the queue of the expert; their logits are the cosines with
    the query divided by the temperature (He et al. 2020, eq. 1). Entries of the queue without a key are left out.
    """
    samples = len(found.queries)
    keys = found.keys[found.first : found.first + samples]
    # Under autocast, the similarities would be bfloat16, whose rounding the temperature multiplies.
    with torch.autocast(keys.device.type, enabled=False):
        own = (found.queries * keys).sum(dim=-1) / temperature
        others = torch.einsum("sew,qew->seq", found.queries, found.queue.to(keys.dtype)) / temperature
    others = others.masked_fill(found.queue_labels < 0, -torch.inf)
    return (torch.cat([own[..., None], others], dim=-1).logsumexp(dim=-1) - own).sum(dim=1)
