"""Backbones with a classifier behind one interface: pooled feature, tokens, logits, layers.

A new kind is a section in `mem.config.backbones`, a `Classifier` in a file of its own here, and a line in `build`.
"""

from __future__ import annotations

from mem import config
from mem.models.backbones.base import Classifier, seeded
from mem.models.backbones.cnn import CnnClassifier
from mem.models.backbones.convmae import ConvMaeClassifier
from mem.models.backbones.vit import VitClassifier, vision_transformer

__all__ = ["Classifier", "build", "seeded", "vision_transformer"]


def build(settings: config.Backbone, classes: int, drop_path: float = 0.0) -> Classifier:
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
        case config.TimmCnn():
            return CnnClassifier(settings, classes, drop_path)
        case config.ConvMae():
            return ConvMaeClassifier(settings, classes, drop_path)
