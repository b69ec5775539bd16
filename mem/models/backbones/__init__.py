"""Backbones with a common interface: pooled feature, tokens, logits and layers.

To add a kind of backbone, add a section to `mem.config.backbones`, a subclass of `BackboneClassifier` in a new file of
this package, and a case to `build`.
"""

from __future__ import annotations

from mem import config
from mem.errors import UserError
from mem.models.backbones.base import BackboneClassifier, seed_torch
from mem.models.backbones.convmae import ConvMaeClassifier
from mem.models.backbones.frozen import FrozenBackbone, frozen_module, frozen_timm
from mem.models.backbones.timm_network import TimmClassifier
from mem.models.backbones.vit import VitClassifier, vision_transformer

__all__ = ["BackboneClassifier", "FrozenBackbone", "build", "build_frozen", "seed_torch", "vision_transformer"]


def build(settings: config.Backbone, classes: int, drop_path: float = 0.0) -> BackboneClassifier:
    """Build a backbone with a linear classification layer and new initial weights.

    Args:
        settings: The architecture.
        classes: Number of outputs of the linear layer.
        drop_path: Stochastic-depth rate of the last block. Rates increase linearly from 0 over the blocks.

    Raises:
        UserError: The network does not support the settings.
    """
    match settings:
        case config.VisionTransformer():
            return VitClassifier(settings, classes, drop_path)
        case config.TimmNetwork():
            return TimmClassifier(settings, classes, drop_path)
        case config.ConvMae():
            return ConvMaeClassifier(settings, classes, drop_path)
        case config.CustomModule() | config.NoBackbone():
            raise UserError(f"A backbone of kind {settings.kind} cannot be trained. Set finetune to null.")


def build_frozen(settings: config.Backbone, classes: int) -> BackboneClassifier | FrozenBackbone:
    """Build a backbone that remains frozen. Load its weights with `initialise_from` or `load_into`.

    Raises:
        UserError: The network does not support the settings.
    """
    match settings:
        case config.TimmNetwork():
            return frozen_timm(settings.model, settings.image_size)
        case config.CustomModule():
            return frozen_module(settings)
        case _:
            return build(settings, classes)
