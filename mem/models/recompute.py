"""Activation checkpointing (Chen et al. 2016): the backward pass computes the activations of a block again."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mem.errors import UserError


class Recomputing:
    """Base class of modules that pass their blocks to `run_blocks`."""

    recompute = False
    """Whether the backward pass computes the activations of each block again instead of keeping them."""


def recompute_activations(model: nn.Module, name: str, enabled: bool = True) -> None:
    """Choose whether the backward pass of a model keeps the activations of its blocks or computes them again.

    The gradients are the same bit for bit, because the blocks draw no random numbers: those of stochastic depth are
    given, and there is no dropout.

    Args:
        model: An autoencoder, or a backbone with its classifier.
        name: Name of the model in error messages.
        enabled: Whether the activations are computed again.

    Raises:
        UserError: The network does not support this.
    """
    ours = [module for module in model.modules() if isinstance(module, Recomputing)]
    for module in ours:
        module.recompute = enabled
    if ours:
        return
    network = getattr(model, "backbone", model)
    try:
        network.set_grad_checkpointing(enabled)  # type: ignore[operator]
    except (AttributeError, AssertionError):
        if enabled:
            raise UserError(
                f"recompute_activations: {name} does not support activation checkpointing. Set it to false, and use "
                "micro_batch to save memory."
            ) from None


def run_blocks(blocks: Iterable[Callable[..., Tensor]], x: Tensor, *arguments: Any, recompute: bool) -> Tensor:
    """Apply blocks in sequence. With `recompute`, their activations are not kept for the backward pass."""
    for block in blocks:
        if recompute and torch.is_grad_enabled():
            x = checkpoint(block, x, *arguments, use_reentrant=False, preserve_rng_state=False)  # type: ignore[assignment]
        else:
            x = block(x, *arguments)
    return x
