"""Stochastic depth (Huang et al. 2016) whose draws belong to samples, not to a generator's history."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn


class SampleDropPath(nn.Module):
    """Drops a residual branch for those samples whose uniform number is under the rate.

    `draws` holds one number a sample; whoever runs the forward pass in training sets it before (see
    `set_draws`). timm's `DropPath` draws from the global generator instead, so that its masks depend on batch
    size, rank and history.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.draws: Float[Tensor, " samples"] | None = None

    def forward(self, x: Float[Tensor, "samples ..."]) -> Float[Tensor, "samples ..."]:
        """`x` for samples that keep the branch, scaled by 1 / (1 - rate); 0 for the others."""
        if not self.training or self.rate == 0:
            return x
        if self.draws is None:
            raise RuntimeError("SampleDropPath runs in training without draws; call set_draws first")
        keep = (self.draws >= self.rate).to(x.dtype) / (1 - self.rate)
        return x * keep.view(-1, *[1] * (x.ndim - 1))


def set_random_numbers(model: nn.Module, uniforms: Float[Tensor, "samples branches"] | None) -> None:
    """Give each `SampleDropPath` of a model its column of uniform numbers."""
    for column, module in enumerate(drop_paths(model)):
        module.draws = None if uniforms is None else uniforms[:, column]


def drop_paths(model: nn.Module) -> list[SampleDropPath]:
    """The droppable branches of a model, first to last."""
    return [module for module in model.modules() if isinstance(module, SampleDropPath)]
