"""Stochastic depth (Huang et al. 2016) whose random numbers belong to samples."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn


class SampleDropPath(nn.Module):
    """Drops a residual branch for the samples whose random number is below the rate.

    Before each forward pass in training, `set_random_numbers` must set `random_numbers`, one per sample. timm's
    `DropPath` uses torch's global generator instead, so that its masks depend on the batch size, the rank and the
    generator's history.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.random_numbers: Float[Tensor, " samples"] | None = None

    def forward(self, x: Float[Tensor, "samples ..."]) -> Float[Tensor, "samples ..."]:
        """Return `x` scaled by 1 / (1 - rate) for samples that keep the branch, and 0 for the others."""
        if not self.training or self.rate == 0:
            return x
        if self.random_numbers is None:
            raise RuntimeError("SampleDropPath has no random numbers in training; call set_random_numbers first")
        keep = (self.random_numbers >= self.rate).to(x.dtype) / (1 - self.rate)
        return x * keep.view(-1, *[1] * (x.ndim - 1))


def set_random_numbers(model: nn.Module, uniforms: Float[Tensor, "samples branches"] | None) -> None:
    """Give each `SampleDropPath` of a model its column of uniform random numbers."""
    for column, module in enumerate(drop_paths(model)):
        module.random_numbers = None if uniforms is None else uniforms[:, column]


def drop_paths(model: nn.Module) -> list[SampleDropPath]:
    """Return the droppable branches of a model, from first to last."""
    return [module for module in model.modules() if isinstance(module, SampleDropPath)]
