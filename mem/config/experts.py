"""Settings for experts: several classifiers on one backbone, which share its first layers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, model_validator

from mem.config.backbones import Backbone, ConvMae, CustomModule, NoBackbone, TimmNetwork, VisionTransformer
from mem.config.base import Section

RESNET_STAGES = ("layer1", "layer2", "layer3", "layer4")
"""Names of the modules from which experts can own the layers of a ResNet."""


class Experts(Section):
    """Experts: classifiers that share the first layers of the backbone and own the others (Wang et al. 2021, RIDE).

    Each expert has its own copy of the layers from `own_from` and its own linear or cosine classifier. Predictions use
    the mean of the experts' logits.
    """

    number: Annotated[int, Field(ge=2)]
    """Number of experts."""
    own_from: str | None = None
    """Name of the first module that each expert owns, in order of execution: `layer1` to `layer4` in ResNets,
    `blocks.N` in vision transformers, `blocks3.N` in ConvMAE (N starts at 0). Default: nothing is shared, and each
    expert is a complete network."""
    width_factor: PositiveFloat | None = None
    """Number of channels of the owned layers relative to the original network, for ResNets; RIDE and SADE use 0.75. The
    number of channels must remain a whole number. Default: the original number of channels."""
    shared_trained_by: Literal["all", "first"] = "all"
    """Experts whose gradients reach the shared layers: all, or the first one only, as in ACE (Cai et al. 2021)."""

    @model_validator(mode="after")
    def _width_belongs_to_owned_layers(self) -> Experts:
        if self.width_factor is not None and self.own_from is None:
            raise ValueError(
                "width_factor: applies to the layers that each expert owns, but own_from is not set, so that experts "
                "are complete networks; set own_from, for example to layer3, or remove width_factor"
            )
        if self.shared_trained_by == "first" and self.own_from is None:
            raise ValueError(
                "shared_trained_by: own_from is not set, so that experts share no layers; set own_from, for example to "
                "layer3, or remove shared_trained_by"
            )
        return self


def names_to_own_from(backbone: Backbone) -> tuple[str, ...] | None:
    """Return the valid values of `own_from` for a backbone. None if they depend on the architecture in timm."""
    match backbone:
        case VisionTransformer():
            return tuple(f"blocks.{i}" for i in range(backbone.depth))
        case ConvMae():
            return tuple(f"blocks3.{i}" for i in range(backbone.depths[2]))
        case TimmNetwork():
            return None
        case CustomModule() | NoBackbone():
            return ()


def check_own_from(own_from: str | None, valid: tuple[str, ...], backbone: str) -> None:
    """Check that a backbone can be divided at a module.

    Args:
        own_from: Name of the module, or None.
        valid: Names of the modules at which the backbone can be divided.
        backbone: Name of the backbone in messages.

    Raises:
        ValueError: The backbone cannot be divided at this module. The message lists the valid names.
    """
    if own_from is None or own_from in valid:
        return
    if not valid:
        raise ValueError(
            f"experts.own_from: {backbone} cannot be divided into shared and owned layers; remove own_from, so that "
            "each expert is a complete network, or use a ResNet, a vision transformer or ConvMAE"
        )
    raise ValueError(
        f"experts.own_from: {backbone} cannot be divided at `{own_from}`; use one of: {', '.join(valid)}. To share no "
        "layers, remove own_from"
    )


def check_experts(path: str, experts: Experts, backbone: Backbone, *, loads_weights: bool) -> None:
    """Check that experts fit to a backbone, as far as this is possible without building it.

    Args:
        path: Path of the settings of the finetuning, for messages.
        experts: Settings of the experts.
        backbone: Settings of the backbone.
        loads_weights: Whether finetuning starts from pretrained weights.

    Raises:
        ValueError: The experts do not fit to the backbone.
    """
    valid = names_to_own_from(backbone)
    if valid is not None:
        try:
            check_own_from(experts.own_from, valid, f"a backbone of kind {backbone.kind}")
        except ValueError as error:
            raise ValueError(f"{path}.{error}") from None
    if experts.width_factor is None:
        return
    if not isinstance(backbone, TimmNetwork):
        raise ValueError(
            f"{path}.experts.width_factor: is available for ResNets only, but backbone.kind is {backbone.kind}; remove "
            "width_factor"
        )
    if loads_weights:
        raise ValueError(
            f"{path}.experts.width_factor: pretrained weights (initial) do not fit layers of another width; remove "
            "width_factor or `initial`"
        )
