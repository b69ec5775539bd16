"""Division of a backbone into layers that experts share and layers that each expert owns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from timm.models.resnet import ResNet
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from mem.config.experts import RESNET_STAGES
from mem.models.backbones.base import BackboneClassifier
from mem.models.backbones.convmae import ConvMaeClassifier
from mem.models.backbones.timm_network import TimmClassifier
from mem.models.backbones.vit import VitClassifier
from mem.models.recompute import run_blocks

Dividable = VitClassifier | ConvMaeClassifier | TimmClassifier
"""Classifiers that can compute their features from the output of the last layer."""


@dataclass(frozen=True)
class Division:
    """The modules of a kind of network in order of execution, and how parts of them are computed.

    Parameter names remain those of the complete network, so that weights, layer-wise learning rates and exemptions from
    weight decay are found by name.
    """

    names: tuple[str, ...]
    """Modules from which experts can own the layers."""
    last: tuple[str, ...]
    """Modules and parameters after the last of `names`. Experts always own them."""
    first_layers: Callable[[Any, Tensor], Tensor]
    """Function that applies the layers of a network from the images to the last shared layer."""
    next_layers: Callable[[Any, Tensor], Tensor]
    """Function that applies the owned layers up to the input of `features_of`."""

    def keep_shared(self, network: nn.Module, own_from: str) -> None:
        """Remove the layers from `own_from` on, in place."""
        _remove(network, (*self.names[self.names.index(own_from) :], *self.last))

    def keep_owned(self, network: nn.Module, own_from: str) -> None:
        """Remove the layers before `own_from`, in place."""
        containers = {name.partition(".")[0] for name in self.names}
        own = (*network._modules, *network._parameters, *network._buffers)
        first = [name for name in own if name not in containers and name not in self.last]
        _remove(network, (*first, *self.names[: self.names.index(own_from)]))


def division_of(model: BackboneClassifier) -> Division | None:
    """Return how a classifier can be divided, or None if it can only be copied as a whole.

    Subclasses of timm's networks are not divided, because they can compute their outputs in another way.
    """
    network = model.backbone
    if isinstance(model, ConvMaeClassifier):
        names = tuple(f"blocks3.{i}" for i in range(len(model.backbone.blocks3)))
        return Division(names, ("fc_norm", "head"), _convmae_first, _convmae_next)
    if type(network) is VisionTransformer:
        names = tuple(f"blocks.{i}" for i in range(len(network.blocks)))
        return Division(names, ("norm", "attn_pool", "fc_norm", "head_drop", "head", "neck"), _vit_first, _vit_next)
    if type(network) is ResNet:
        return Division(RESNET_STAGES, ("global_pool", "fc", "neck"), _resnet_first, _resnet_next)
    return None


def _remove(network: nn.Module, names: tuple[str, ...]) -> None:
    for name in names:
        parent, _, leaf = name.rpartition(".")
        module = network.get_submodule(parent)
        if leaf in {*module._modules, *module._parameters, *module._buffers}:
            delattr(module, leaf)


def _vit_first(network: VisionTransformer, images: Tensor) -> Tensor:
    x = network._pos_embed(network.patch_embed(images))
    x = network.norm_pre(network.patch_drop(x))
    return run_blocks(network.blocks, x, recompute=network.grad_checkpointing)


def _vit_next(network: VisionTransformer, x: Tensor) -> Tensor:
    return network.norm(run_blocks(network.blocks, x, recompute=network.grad_checkpointing))


def _convmae_first(network: Any, images: Tensor) -> Tensor:
    return network.stages(images)[2]


def _convmae_next(network: Any, x: Tensor) -> Tensor:
    return run_blocks(network.blocks3, x, recompute=network.recompute)


def _resnet_first(network: ResNet, images: Tensor) -> Tensor:
    return _resnet_next(network, network.maxpool(network.act1(network.bn1(network.conv1(images)))))


def _resnet_next(network: ResNet, x: Tensor) -> Tensor:
    stages = [stage for name, stage in network.named_children() if name in RESNET_STAGES]
    return run_blocks((block for stage in stages for block in stage), x, recompute=network.grad_checkpointing)  # type: ignore[union-attr]
