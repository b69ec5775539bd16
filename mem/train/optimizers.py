"""Optimizers and weight averaging. `mem.models.parameter_groups` sets weight decay and `lr_scale` per layer."""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from mem import config
from mem.models.moving_average import move_averages


def adamw(groups: list[dict[str, Any]], betas: tuple[float, float]) -> torch.optim.Optimizer:
    """Return AdamW (Loshchilov & Hutter 2019) for parameter groups with `weight_decay` and, optionally, `lr_scale`."""
    return torch.optim.AdamW(groups, lr=0.0, betas=betas, fused=True)


def backbone_optimizer(groups: list[dict[str, Any]], settings: config.Training) -> torch.optim.Optimizer:
    """Return the configured optimizer for parameter groups with `weight_decay` and, optionally, `lr_scale`."""
    if settings.optimizer == "adamw":
        assert settings.betas is not None
        return adamw(groups, settings.betas)
    assert settings.momentum is not None
    optimizer = torch.optim.SGD(groups, lr=0.0, momentum=settings.momentum, nesterov=settings.nesterov, fused=True)
    if settings.momentum:
        # SGD creates the momentum buffers in its first step. If this step were skipped, they would be undefined.
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def skip_step_where(optimizer: torch.optim.Optimizer, skipped: Bool[Tensor, ""]) -> None:
    """Make the next step of a fused optimizer a no-op if the flag is set, without copying the flag to the CPU."""
    assert all(group["fused"] for group in optimizer.param_groups), "only fused optimizers skip without waiting"
    optimizer.found_inf = skipped.float()  # type: ignore[attr-defined]
    optimizer.grad_scale = None  # type: ignore[attr-defined]


def averaged_copy(model: nn.Module, unchanged: Collection[str] = ()) -> nn.Module:
    """Return a copy of the model for averaged weights, in evaluation mode and without gradients.

    Args:
        model: The model.
        unchanged: Names of parameters and buffers that training does not change. The copy shares them.
    """
    tensors = [*model.named_parameters(), *model.named_buffers()]
    shared: dict[int, Any] = {id(tensor): tensor for name, tensor in tensors if name in unchanged}
    return copy.deepcopy(model, shared).eval().requires_grad_(False)


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float, skipped: Bool[Tensor, ""] | None = None) -> None:
    """Update averaged weights in place: average = decay * average + (1 - decay) * weights.

    BatchNorm statistics are also averaged. Integer and boolean tensors are copied, as in timm's ModelEmaV3.

    Args:
        average: Model with the averaged weights.
        model: Model with the current weights.
        decay: Weight of the previous average.
        skipped: Flag on the device that disables the update.
    """
    averages, weights = [], []
    pairs = zip(average.state_dict(keep_vars=True).values(), model.state_dict(keep_vars=True).values(), strict=True)
    for averaged, current in pairs:
        if averaged is current:
            continue  # shared, because training does not change it
        if averaged.is_floating_point():
            averages.append(averaged)
            weights.append(current)
        else:
            averaged.copy_(current)
    move_averages(averages, weights, decay, skipped)


def head_optimizer(groups: list[dict[str, Any]], settings: config.HeadTraining) -> torch.optim.Optimizer:
    """Return SGD with momentum 0.9 or AdamW, with one weight decay for all trained parameters (Kang et al. 2020).

    Args:
        groups: Groups of trained parameters, optionally with `lr_scale`; see `Head.parameter_groups`.
        settings: Training settings of the head.
    """
    if settings.optimizer == "sgd":
        return _EagerSGD(groups, lr=settings.lr, momentum=0.9, weight_decay=settings.weight_decay)
    return _EagerAdamW(groups, lr=settings.lr, weight_decay=settings.weight_decay, fused=True)


def _unwrapped(method: Any) -> Any:
    """Return a method of PyTorch's optimizers without its wrapper for torch.compile.

    The wrapper imports TorchDynamo and SymPy, even if nothing is compiled. This takes longer than to train most heads.
    """
    return getattr(method, "__wrapped__", method)


class _Eager:
    """Methods of `torch.optim.Optimizer` without their wrappers."""

    add_param_group = _unwrapped(torch.optim.Optimizer.add_param_group)
    zero_grad = _unwrapped(torch.optim.Optimizer.zero_grad)
    state_dict = _unwrapped(torch.optim.Optimizer.state_dict)
    load_state_dict = _unwrapped(torch.optim.Optimizer.load_state_dict)


class _EagerSGD(_Eager, torch.optim.SGD):
    step = torch.no_grad()(_unwrapped(torch.optim.SGD.step))


class _EagerAdamW(_Eager, torch.optim.AdamW):
    step = torch.no_grad()(_unwrapped(torch.optim.AdamW.step))


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every parameter group to `lr` times the group's `lr_scale`."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)
