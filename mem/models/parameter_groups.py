"""Which parameters decay, and how fast each layer learns."""

from __future__ import annotations

from typing import Any

from timm.optim._param_groups import param_groups_weight_decay
from torch import nn

from mem.models.backbones.base import Classifier


def decay_groups(model: nn.Module, weight_decay: float, *, decay_all: bool = False) -> list[dict[str, Any]]:
    """Weight decay on matrices and tokens, none on norms and biases: the groups of MAE's pretraining.

    With `decay_all` everything decays.

    Source: facebookresearch/mae, main_pretrain.py, which takes them from timm.
    """
    if decay_all:
        return [{"params": [p for p in model.parameters() if p.requires_grad], "weight_decay": weight_decay}]
    return param_groups_weight_decay(model, weight_decay)


def layer_decay_groups(
    model: Classifier, weight_decay: float, layer_decay: float, *, decay_all: bool = False
) -> list[dict[str, Any]]:
    """Groups whose `lr_scale` shrinks by `layer_decay` with each layer away from the head.

    Nothing decays on norms, biases, tokens and positions, unless `decay_all` says so. These are the
    groups of MAE's finetuning.

    Source: facebookresearch/mae, util/lr_decay.py, after BEiT.
    """
    groups: dict[tuple[int, float], dict[str, Any]] = {}
    for name, parameter in model.backbone.named_parameters():
        if not parameter.requires_grad:
            continue
        layer = model.layer_of(name)
        plain = not decay_all and (parameter.ndim <= 1 or model.undecayed(name))
        decay = 0.0 if plain else weight_decay
        scale = layer_decay ** (model.layers - layer)
        group = groups.setdefault((layer, decay), {"lr_scale": scale, "weight_decay": decay, "params": []})
        group["params"].append(parameter)
    return list(groups.values())
