"""Backbones with a common interface: pooled feature, tokens, logits and layers.

To add a kind of backbone, add a section to `mem.config.backbones`, a subclass of `BackboneClassifier` in a new file of
this package, and a case to `build`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mem import config
from mem.config.tuners import ALL_PARAMETERS, TunerSection
from mem.errors import UserError
from mem.models.backbones.base import BackboneClassifier, seed_torch
from mem.models.backbones.convmae import ConvMaeClassifier
from mem.models.backbones.experts import ExpertClassifier, options_of_width
from mem.models.backbones.frozen import FrozenBackbone, frozen_module, frozen_timm
from mem.models.backbones.timm_network import TimmClassifier
from mem.models.backbones.tuned import add_tuner, merged
from mem.models.backbones.vit import VitClassifier, vision_transformer

__all__ = [
    "BackboneClassifier",
    "FrozenBackbone",
    "add_tuner",
    "build",
    "build_frozen",
    "merged",
    "network_name",
    "seed_torch",
    "vision_transformer",
]


def build(
    settings: config.Backbone,
    classes: int,
    drop_path: float = 0.0,
    cosine_scale: float | None = None,
    experts: config.Experts | None = None,
    tuner: TunerSection = ALL_PARAMETERS,
) -> BackboneClassifier:
    """Build a backbone with a classification layer and new initial weights.

    Pretrained weights lack the layers of a tuner. To load them, build the backbone without the tuner, and add it later
    with `add_tuner`.

    Args:
        settings: The architecture.
        classes: Number of outputs of the classification layer.
        drop_path: Stochastic-depth rate of the last block. Rates increase linearly from 0 over the blocks.
        cosine_scale: Scale of a cosine classifier. None builds a linear layer.
        experts: Settings of experts, which have one classifier each. None builds one classifier.
        tuner: Settings of the tuner.

    Raises:
        UserError: The network does not support the settings.
    """
    if experts is None:
        model = _build(settings, classes, drop_path)
    else:
        options = options_of_width(settings, experts)
        model = ExpertClassifier(lambda: _build(settings, classes, drop_path, options), experts, network_name(settings))
    if cosine_scale is not None:
        model.use_cosine_classifier(cosine_scale)
    add_tuner(model, tuner, network_name(settings))
    return model


def network_name(settings: config.Backbone) -> str:
    """Return the name of the network of a backbone in error messages."""
    return settings.model if isinstance(settings, config.TimmNetwork) else f"a backbone of kind {settings.kind}"


def _build(
    settings: config.Backbone, classes: int, drop_path: float, options: Mapping[str, Any] | None = None
) -> BackboneClassifier:
    """Build a network with one classifier. `options` are further arguments for networks of timm."""
    match settings:
        case config.VisionTransformer():
            return VitClassifier(settings, classes, drop_path)
        case config.TimmNetwork():
            return TimmClassifier(settings, classes, drop_path, **(options or {}))
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
