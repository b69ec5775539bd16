"""Interfaces of modules that contain more than is evaluated and saved after training, or that train only in part.

The training loop imports only these interfaces, so that heads start without the libraries of the backbones.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from jaxtyping import Bool
from torch import Tensor, nn


class TrainingModule(nn.Module, ABC):
    """A classifier with further modules and buffers that only training uses. Checkpoints contain all of them."""

    @property
    @abstractmethod
    def saved_part(self) -> nn.Module:
        """The classifier, which is averaged, evaluated and saved."""

    @abstractmethod
    def end_step(self, skipped: Bool[Tensor, ""] | None = None) -> None:
        """Update what changes once per step, after the optimizer.

        Args:
            skipped: Flag on the device. If it is set, nothing may change.
        """


class PartlyTrained(nn.Module):
    """A module of which training may change only a part. Checkpoints contain only this part.

    The other parameters and buffers have the same values before training as after an interruption: those of the initial
    weights.
    """

    def unchanged_names(self) -> frozenset[str]:
        """Return the names in the state dict of the parameters and buffers that training does not change."""
        return frozenset()
