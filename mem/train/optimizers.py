"""Optimizers. `mem.models.parameter_groups` says which parameters decay and how fast each layer learns."""

from __future__ import annotations

import copy
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from mem import config


def adamw(groups: list[dict[str, Any]], betas: tuple[float, float]) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2019) over groups that carry `weight_decay` and, maybe, `lr_scale`."""
    return torch.optim.AdamW(groups, lr=0.0, betas=betas, fused=True)


def backbone_optimizer(groups: list[dict[str, Any]], settings: config.Training) -> torch.optim.Optimizer:
    """The optimizer that a recipe asks for, over groups that carry `weight_decay` and, maybe, `lr_scale`."""
    if settings.optimizer == "adamw":
        assert settings.betas is not None
        return adamw(groups, settings.betas)
    assert settings.momentum is not None
    optimizer = torch.optim.SGD(groups, lr=0.0, momentum=settings.momentum, nesterov=settings.nesterov, fused=True)
    if settings.momentum:
        # As if a step with no gradient had been made: a first step that is skipped would leave them undefined.
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def skip_step_where(optimizer: torch.optim.Optimizer, skipped: Bool[Tensor, ""]) -> None:
    """Let the next step of a fused optimizer do nothing where the flag, which stays on the device, is set."""
    assert all(group["fused"] for group in optimizer.param_groups), "only fused optimizers skip without waiting"
    optimizer.found_inf = skipped.float()  # type: ignore[attr-defined]
    optimizer.grad_scale = None  # type: ignore[attr-defined]


def averaged_copy(model: nn.Module) -> nn.Module:
    """A copy whose weights are not trained."""
    return copy.deepcopy(model).eval().requires_grad_(False)


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float, skipped: Bool[Tensor, ""] | None = None) -> None:
    """Move an average of weights towards a model's: average = decay * average + (1 - decay) * weights.

    Statistics of norms are averaged too, and what is no float is copied, as in timm's ModelEmaV3.

    Args:
        average: Changed in place.
        model: Has the new weights.
        decay: Share of the average that stays.
        skipped: A flag on the device; where it is set, nothing moves.
    """
    olds, news = [], []
    for old, new in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        if not old.is_floating_point():
            old.copy_(new)
        else:
            olds.append(old)
            news.append(new)
    if skipped is None:
        torch._foreach_lerp_(olds, news, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]
        return
    for old, new in zip(olds, news, strict=True):
        old.lerp_(new, ((1 - decay) * ~skipped).to(old.dtype))


def head_optimizer(head: nn.Module, settings: config.HeadTraining) -> torch.optim.Optimizer:
    """SGD with momentum 0.9 or AdamW over a head's trained parameters, all decayed alike (Kang et al. 2020)."""
    parameters = [p for p in head.parameters() if p.requires_grad]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=settings.lr, momentum=0.9, weight_decay=settings.weight_decay)
    return torch.optim.AdamW(parameters, lr=settings.lr, weight_decay=settings.weight_decay, fused=True)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group the learning rate `lr`, times its `lr_scale`."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)
