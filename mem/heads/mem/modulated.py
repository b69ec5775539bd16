"""Interface of heads with group weights and norms: MEM, and MEM on each expert."""

from __future__ import annotations

from abc import abstractmethod

from jaxtyping import Float, Int64
from torch import Tensor

from mem import config
from mem.heads.base import Head


class ModulatedHead(Head):
    """A head that weights the logits of groups of classes."""

    settings: config.Mem
    group_of_class: Int64[Tensor, " classes"]
    """Group of each class, from 0; a buffer."""

    @abstractmethod
    def modulate(
        self, features: Float[Tensor, "samples *sequence width"]
    ) -> tuple[Float[Tensor, "samples classes"], Float[Tensor, "samples groups"], Float[Tensor, "samples groups"]]:
        """Return the data-aware logits (eq. 8), the group weights w (eq. 7) and the norms Q of the sub-networks."""
