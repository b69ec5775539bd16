"""Which parameters decay, and how fast each layer learns."""

from __future__ import annotations

from typing import Any

from timm.models.vision_transformer import VisionTransformer
from timm.optim._param_groups import param_groups_layer_decay, param_groups_weight_decay
from torch import nn


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay on matrices and tokens, none on norms and biases: the groups of MAE's pretraining.

    Source: facebookresearch/mae, main_pretrain.py, which takes them from timm.
    """
    return param_groups_weight_decay(model, weight_decay)


def layer_decay_groups(backbone: VisionTransformer, weight_decay: float, layer_decay: float) -> list[dict[str, Any]]:
    """Groups whose `lr_scale` shrinks by `layer_decay` with each layer away from the head.

    Nothing decays on norms, biases, tokens and positions. These are the groups of MAE's finetuning.

    Source: facebookresearch/mae, util/lr_decay.py, after BEiT.
    """
    return param_groups_layer_decay(
        backbone,
        weight_decay=weight_decay,
        no_weight_decay_list=tuple(backbone.no_weight_decay()),
        layer_decay=layer_decay,
    )
