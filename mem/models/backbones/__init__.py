"""Backbones with a classifier behind one interface: pooled feature, tokens, logits, layers.

A new kind is a section in `mem.config.backbones`, a `Classifier` in a file of its own here, and a line in `build`.
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
    """A fresh backbone with a linear classifier.

    Args:
        settings: The architecture.
        classes: Size of the classifier.
        drop_path: Stochastic depth: rate of the last block, rising linearly from 0.

    Raises:
        UserError: The network cannot be had as the settings ask.
    """
    match settings:
        case config.VisionTransformer():
            return VitClassifier(settings, classes, drop_path)
        case config.TimmNetwork():
            return TimmClassifier(settings, classes, drop_path)
        case config.ConvMae():
            return ConvMaeClassifier(settings, classes, drop_path)
        case config.CustomModule() | config.NoBackbone():
            raise UserError(f"a backbone of kind {settings.kind} cannot be trained here: set finetune to null")


def build_frozen(settings: config.Backbone, classes: int) -> BackboneClassifier | FrozenBackbone:
    """A backbone that is used as it comes; weights are loaded into it by `start_frozen` or `load_into`.

    Raises:
        UserError: The network cannot be had as the settings ask.
    """
    match settings:
        case config.TimmNetwork():
            return frozen_timm(settings.model, settings.image_size)
        case config.CustomModule():
            return frozen_module(settings)
        case _:
            return build(settings, classes)
