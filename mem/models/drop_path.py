"""Stochastic depth (Huang et al. 2016) with explicit random numbers for each sample."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn


class SampleDropPath(nn.Module):
    """Drops a residual branch for the samples whose random number is below the rate.

    Call `set_random_numbers` before each forward pass in training to provide one number per sample. timm's `DropPath`
    uses PyTorch's global random number generator instead, so its masks depend on the batch size, the rank and the
    generator's state.
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
    """Assign one column of uniform random numbers to each `SampleDropPath` of a model."""
    for column, module in enumerate(drop_paths(model)):
        module.random_numbers = None if uniforms is None else uniforms[:, column]


def drop_paths(model: nn.Module) -> list[SampleDropPath]:
    """Return the `SampleDropPath` modules of a model, from first to last."""
    return [module for module in model.modules() if isinstance(module, SampleDropPath)]
