"""Optimizers. `mem.models.parameter_groups` says which parameters decay and how fast each layer learns."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from mem import config


def adamw(groups: list[dict[str, Any]], betas: tuple[float, float]) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2019) over groups that carry `weight_decay` and, maybe, `lr_scale`."""
    return torch.optim.AdamW(groups, lr=0.0, betas=betas, fused=True)


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
