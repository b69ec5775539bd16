"""A head and its backbone as one timm network with the same logits.

A timm network ends in a linear layer on its pooled feature. It can therefore express each head that is a linear
classifier of the pooled feature when it predicts, for every training objective.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import timm
import torch
from timm.models import PretrainedCfg
from torch import Tensor

from mem import config
from mem.errors import UserError
from mem.export.classifier import ImageClassifier
from mem.heads.base import Head, Linear
from mem.heads.cosine import CosineHead
from mem.heads.mem.modulated import ModulatedHead
from mem.models.backbones import BackboneClassifier, FrozenBackbone
from mem.models.backbones.timm_network import current_name
from mem.models.backbones.tuned import merged
from mem.models.cosine import CosineLinear

VIT = "vit_base_patch16_224"
"""timm architecture of the backbones of kind `vit`, whose sizes are arguments of the network."""
_NAMED_VITS = {
    (16, 192, 12, 3): "vit_tiny_patch16_224",
    (16, 384, 12, 6): "vit_small_patch16_224",
    (16, 768, 12, 12): VIT,
    (16, 1024, 24, 16): "vit_large_patch16_224",
}
"""timm's names of the sizes (patch size, width, depth, heads) that have one."""
OTHER_FORMATS = "Use --format mem (torch program and MLflow model) or --format onnx, which can express every head."


@dataclass(frozen=True)
class TimmEquivalent:
    """A timm network with its weights."""

    architecture: str
    model_args: Mapping[str, Any]
    """Arguments of the network besides the number of classes."""
    tensors: Mapping[str, Tensor]
    """State dictionary, including the classifier."""
    defaults: PretrainedCfg
    """timm's description of the architecture, without that of pretrained weights."""


def timm_equivalent(classifier: ImageClassifier, backbone: config.ImageBackbone) -> TimmEquivalent:
    """Return the timm network that computes the logits of a classifier.

    Args:
        classifier: The head and its backbone.
        backbone: Settings of the backbone.

    Raises:
        UserError: No timm network computes these logits. The message states the reason and other formats.
    """
    linear = _linear(classifier.head)
    model = classifier.model
    if isinstance(model, FrozenBackbone):
        return _frozen_equivalent(model, linear, backbone)
    if isinstance(backbone, config.ConvMae):
        raise _inexpressible("timm has no ConvMAE")
    if isinstance(backbone, config.TimmNetwork) and backbone.neck_width is not None:
        raise _inexpressible(
            f"the backbone has a fully connected layer before its classifier (neck_width {backbone.neck_width}), which "
            f"timm's {backbone.model} does not have"
        )
    if model.experts > 1:
        raise _inexpressible(f"the backbone has {model.experts} experts, and a timm network has one classifier")
    model = _without_tuner(model)
    prefix = model.head_prefix
    tensors = {name: value.detach().clone().contiguous() for name, value in model.backbone.state_dict().items()}
    # A cosine classifier has no bias, but the linear layer that it replaced has one.
    has_bias = f"{prefix}bias" in tensors or isinstance(model.linear, CosineLinear)
    tensors |= _classifier_tensors(linear, prefix, has_bias=has_bias)
    for name in model.other_classifiers:
        # For example VOLO's auxiliary classifier, which timm adds to the logits.
        if not name.startswith(prefix) and name in tensors:
            tensors[name] = torch.zeros_like(tensors[name])
    architecture, model_args = architecture_of(backbone)
    return TimmEquivalent(architecture, model_args, tensors, timm.get_pretrained_cfg(architecture) or PretrainedCfg())


def _frozen_equivalent(model: FrozenBackbone, linear: Linear, backbone: config.ImageBackbone) -> TimmEquivalent:
    """Return a timm network that was built without a classifier, with one."""
    architecture, model_args = architecture_of(backbone)
    complete = complete_network(architecture, model_args, linear.weight.shape[0])
    prefix = classifier_prefix(complete)
    if prefix is None:
        raise _inexpressible(f"timm's {architecture} does not end in a linear layer on its pooled feature")
    tensors = {name: value.detach().clone().contiguous() for name, value in model.backbone.state_dict().items()}
    shapes = complete.state_dict()
    tensors |= _classifier_tensors(linear, prefix, has_bias=f"{prefix}bias" in shapes)
    # Other classifiers, such as VOLO's auxiliary one, add nothing to the logits. If timm requires other tensors, its
    # logits differ, and the export fails.
    tensors |= {name: torch.zeros(value.shape) for name, value in shapes.items() if name not in tensors}
    return TimmEquivalent(architecture, model_args, tensors, timm.get_pretrained_cfg(architecture) or PretrainedCfg())


def complete_network(architecture: str, model_args: Mapping[str, Any], classes: int) -> torch.nn.Module:
    """Return a timm network with its classifier on the meta device, for its names and shapes."""
    with torch.device("meta"):
        return timm.create_model(architecture, num_classes=classes, **model_args)


def classifier_prefix(network: torch.nn.Module) -> str | None:
    """Return the key prefix of the linear classifier of a timm network, or None if it has another classifier."""
    classifier = network.get_classifier() if hasattr(network, "get_classifier") else None  # type: ignore[operator]
    if not isinstance(classifier, torch.nn.Linear):
        return None
    return next(f"{name}." for name, module in network.named_modules() if module is classifier)


def _inexpressible(reason: str) -> UserError:
    return UserError(f"This head cannot be exported as a timm network: {reason}. {OTHER_FORMATS}")


def _linear(head: Head) -> Linear:
    """Return the head as a linear classifier.

    Raises:
        UserError: The head is not linear.
    """
    linear = head.as_linear()
    if linear is not None:
        return linear
    if isinstance(head, CosineHead):
        reason = "it is a cosine classifier, which divides the feature of each image by its norm"
    elif isinstance(head, ModulatedHead):
        reason = "MEM multiplies the logits by weights that it computes for each image"
    else:
        reason = f"{type(head).__name__} is not a linear classifier of the pooled feature"
    raise _inexpressible(reason)


def _without_tuner(model: BackboneClassifier) -> BackboneClassifier:
    """Return the backbone without the layers of its tuner.

    Raises:
        UserError: The layers cannot be merged into the weights of the network.
    """
    try:
        return merged(model) if model.tuner.adds_layers else model
    except UserError:
        reason = f"the tuner `{model.tuner.name}` adds layers that are not linear and cannot be merged"  # type: ignore[attr-defined]
        raise _inexpressible(reason) from None


def _classifier_tensors(linear: Linear, prefix: str, *, has_bias: bool) -> dict[str, Tensor]:
    assert linear.bias is not None
    tensors = {f"{prefix}weight": linear.weight.detach().clone().contiguous()}
    if has_bias:
        tensors[f"{prefix}bias"] = linear.bias.detach().clone()
    elif linear.bias.any():
        raise _inexpressible("the classifier of this timm network has no bias, and the head has one")
    return tensors


def architecture_of(backbone: config.ImageBackbone) -> tuple[str, dict[str, Any]]:
    """Return timm's name of an architecture, and the arguments that differ from its defaults."""
    if isinstance(backbone, config.VisionTransformer):
        sizes = backbone.patch_size, backbone.width, backbone.depth, backbone.heads
        # MAE's finetuning model pools the patch tokens and applies its norm after the pooling.
        arguments = {
            "img_size": backbone.image_size,
            "patch_size": backbone.patch_size,
            "embed_dim": backbone.width,
            "depth": backbone.depth,
            "num_heads": backbone.heads,
            "global_pool": "avg",
        }
        return _NAMED_VITS.get(sizes, VIT), arguments
    assert isinstance(backbone, config.TimmNetwork)
    name = current_name(backbone.model)
    defaults = timm.get_pretrained_cfg(name)
    fixed = defaults is not None and defaults.fixed_input_size
    return name, {"img_size": backbone.image_size} if fixed else {}
