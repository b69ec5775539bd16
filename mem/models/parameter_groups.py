"""Optimizer parameter groups with weight decay and layer-wise learning-rate scales."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from timm.optim._param_groups import param_groups_weight_decay
from torch import nn

from mem.models.backbones.base import BackboneClassifier
from mem.models.tuners.prompts import is_prompt


def decay_groups(model: nn.Module, weight_decay: float, *, decay_all: bool = False) -> list[dict[str, Any]]:
    """Return the parameter groups for MAE pretraining: weight decay for matrices and tokens, none for norms and biases.

    With `decay_all`, weight decay applies to every parameter.

    Source: facebookresearch/mae, main_pretrain.py, which uses timm's groups.
    """
    if decay_all:
        return [{"params": [p for p in model.parameters() if p.requires_grad], "weight_decay": weight_decay}]
    return param_groups_weight_decay(model, weight_decay)


def layer_decay_groups(
    model: BackboneClassifier,
    weight_decay: float,
    layer_decay: float,
    *,
    decay_all: bool = False,
    classifier_lr_factor: float = 1.0,
    expert_lr_factors: Sequence[float] | None = None,
) -> list[dict[str, Any]]:
    """Return the parameter groups for MAE finetuning, with layer-wise learning-rate decay.

    Only parameters that train are in a group. Layers that a tuner adds to a block belong to the layer of the block.

    The `lr_scale` of a layer is `layer_decay` to the power of the number of layers above it; for the linear classifier,
    it is also multiplied by `classifier_lr_factor`, and for the layers that an expert owns, by the expert's factor in
    `expert_lr_factors`. Norms, biases, tokens and position embeddings have no weight decay
    unless `decay_all` is set.

    Source: facebookresearch/mae, util/lr_decay.py, which follows BEiT.
    """
    groups: dict[tuple[int, float, float], dict[str, Any]] = {}
    for name, parameter in model.backbone.named_parameters():
        if not parameter.requires_grad:
            continue
        layer = model.layer_of(name)
        exempt = not decay_all and (parameter.ndim <= 1 or model.exempt_from_decay(name) or is_prompt(name))
        decay = 0.0 if exempt else weight_decay
        scale = layer_decay ** (model.layers - layer)
        if name.startswith(model.classifier_prefixes):
            scale *= classifier_lr_factor
        expert = model.expert_of(name)
        if expert_lr_factors is not None and expert is not None:
            scale *= expert_lr_factors[expert]
        group = groups.setdefault((layer, scale, decay), {"lr_scale": scale, "weight_decay": decay, "params": []})
        group["params"].append(parameter)
    return list(groups.values())
