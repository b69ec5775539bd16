"""A single optimizer step on one global batch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mem.data.batch import Batch
from mem.distributed import World
from mem.models.batch_norm import (
    discard_batch_norm_statistics,
    keep_batch_norm_statistics,
    update_batch_norm_statistics,
)
from mem.models.training_module import TrainingModule
from mem.precision import Precision, autocast
from mem.train.meters import FiniteWatch
from mem.train.optimizers import set_lr, skip_step_where, update_average
from mem.train.state import TrainState

Objective = Callable[[nn.Module, Batch], tuple[Float[Tensor, ""], Mapping[str, Tensor]]]
"""Function that takes a model replica and a batch, and returns the mean loss over the batch and mean metrics."""


@dataclass(frozen=True)
class StepOptions:
    """Options for the computation of a step."""

    micro_batch: int | None = None
    """Images per forward and backward pass on one device. None uses the complete batch. On a GPU, the complete batch is
    halved until it fits into memory."""
    clip_grad: float | None = None
    precision: Precision = "fp32"
    """Precision of the forward pass, which the device supports."""
    compile: bool = False
    """Whether to use torch.compile, which changes speed and rounding."""
    peak_images_per_s: float | None = None
    """Total throughput of all devices at their peak FLOP rate, used to compute the metric `mfu`."""
    skip_nonfinite: bool = False
    """Whether to skip a step with a non-finite gradient. Otherwise, such a step ends training."""


@dataclass(frozen=True)
class StepContext:
    """Objects and settings that all steps of a training run share."""

    world: World
    global_batch: int
    """Number of samples per batch over all ranks."""
    options: StepOptions
    watch: FiniteWatch


def train_step(
    state: TrainState, replica: nn.Module, batch: Batch, objective: Objective, lr: float, context: StepContext
) -> None:
    """Take one optimizer step on one global batch, of which `batch` is this rank's part.

    The gradient is the mean over the samples of the global batch, regardless of how they are divided into ranks and
    micro-batches.
    """
    world, options = context.world, context.options
    set_lr(state.optimizer, lr)
    state.optimizer.zero_grad(set_to_none=True)
    totals: dict[str, Tensor] = {}
    bad_loss = torch.zeros((), dtype=torch.bool, device=world.device)
    parts = list(batch.to(world.device).split(options.micro_batch))
    for i, part in enumerate(parts):
        is_last = i == len(parts) - 1
        with autocast(options.precision, world.device):
            loss, metrics = objective(replica, part)
        keep_batch_norm_statistics(state.model)
        # The replica averages over ranks, so the weighted losses add up to the mean over the global batch.
        share = len(part) * world.size / context.global_batch
        # A non-finite loss can have a finite gradient, for example through a clamp. Multiplying by NaN makes the
        # gradient non-finite too, so every rank detects it in the reduced gradient.
        finite = loss.detach().isfinite()
        weight = torch.where(finite, torch.full_like(loss, share, requires_grad=False), torch.nan)
        with contextlib.nullcontext() if is_last else world.without_sync(replica):
            (loss * weight).backward()
        discard_batch_norm_statistics(state.model)
        bad_loss = bad_loss | ~finite
        for name, value in {"loss": loss, **metrics}.items():
            totals[name] = totals.get(name, torch.zeros((), device=world.device)) + value.detach() * share
    bad, norm = _gradient_norm(state.optimizer, options.clip_grad)
    context.watch.record(state.step + 1, bad, bad_loss)
    totals["grad_norm"] = norm
    skipped = bad if options.skip_nonfinite else None
    if skipped is not None:
        totals = {name: torch.where(skipped, 0.0, value) for name, value in totals.items()}
        totals["skipped"] = skipped
        skip_step_where(state.optimizer, skipped)
    state.optimizer.step()
    update_batch_norm_statistics(state.model, world, skipped)
    if isinstance(state.model, TrainingModule):
        state.model.end_step(skipped)
    if state.ema is not None and state.ema_decay is not None:
        update_average(state.ema, state.classifier, state.ema_decay, skipped)
    state.step += 1
    state.meter.add(totals)


def _gradient_norm(optimizer: torch.optim.Optimizer, clip_grad: float | None) -> tuple[Tensor, Tensor]:
    """Clip the gradient if `clip_grad` is set. Return whether its norm is not finite, and the norm before clipping."""
    parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    norm = nn.utils.get_total_norm([p.grad for p in parameters])
    if clip_grad is not None:
        nn.utils.clip_grads_with_norm_(parameters, clip_grad, norm)
    return ~norm.isfinite(), norm
