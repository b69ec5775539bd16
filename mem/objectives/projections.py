"""What contrastive losses receive in addition to logits and labels."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float, Int64
from torch import Tensor


@dataclass(frozen=True)
class Projections:
    """Projections of a batch and of the queue, all of length 1. With experts, each expert has its own."""

    queries: Float[Tensor, "samples *experts width"]
    """Projections of the first views of the samples."""
    first: int
    """Position of the first of the samples within the global batch."""
    all_queries: Float[Tensor, "all *experts width"]
    """Queries of the global batch. Gradients flow to the rank that computed them."""
    keys: Float[Tensor, "all *experts width"]
    """Projections of the second views of the global batch, by the key encoder."""
    labels: Int64[Tensor, " all"]
    """Labels of the global batch."""
    queue: Float[Tensor, "entries *experts width"]
    """Keys of earlier steps."""
    queue_labels: Int64[Tensor, " entries"]
    """Labels of the keys in the queue; -1 where an entry contains no key yet."""
