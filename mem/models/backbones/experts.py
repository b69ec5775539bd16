"""Backbones with experts: several classifiers that share the first layers (Wang et al. 2021, RIDE).

The structure follows frank-xwang/RIDE-LongTailRecognition (model/fb_resnets at ab8be5c): each expert has its own copy
of the layers from `own_from` on and its own classifier, and predictions use the mean of the experts' logits. With
`own_from: layer3` and `width_factor: 0.75`, a ResNet has 192 and 384 instead of 256 and 512 planes in `layer3` and
`layer4`, as with `reduce_dimension` there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from jaxtyping import Float
from timm.models.resnet import ResNet
from torch import Tensor, nn

from mem import config
from mem.config.experts import RESNET_STAGES, check_own_from
from mem.errors import UserError
from mem.models.backbones.base import BackboneClassifier
from mem.models.backbones.division import Dividable, Division, division_of
from mem.models.backbones.timm_network import timm_network
from mem.models.drop_path import set_random_numbers


class ExpertNetworks(nn.Module):
    """The shared layers (`shared`), if there are any, and the layers of each expert (`experts.I`, from 0)."""

    def __init__(self, shared: nn.Module | None, experts: list[nn.Module]) -> None:
        super().__init__()
        self.is_divided = shared is not None
        if shared is not None:
            self.shared = shared
        self.experts = nn.ModuleList(experts)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Choose whether the backward pass computes activations again (see `mem.models.recompute`)."""
        if not self.is_divided:
            for network in self.experts:
                network.set_grad_checkpointing(enable)  # type: ignore[operator]
            return
        # timm's method expects modules that a divided network lacks.
        for network in (self.shared, *self.experts):
            network.grad_checkpointing = enable  # type: ignore[assignment]


class ExpertClassifier(BackboneClassifier):
    """Experts with one classifier each, which share the layers before `own_from`.

    The logits have the shape (samples, experts, classes). Parameters have the names of the complete network after the
    prefix `shared.` or `experts.I.`.

    New parameters of each expert have initial values of their own. Pretrained weights are copied into the shared layers
    and into each expert's layers, so that pretrained experts are equal at the start, except for their classifiers and
    other layers that the weights lack. Stochastic depth drops the branches of each expert independently: a sample has
    one random number for each shared branch, and one for each branch of each expert.

    Args:
        build_network: Builds a complete network with new initial values. It is called once for the shared layers, if
            there are any, and then once for each expert.
        experts: Number of experts, and the first module that they own.
        name: Name of the network in error messages.

    Raises:
        UserError: The network cannot be divided at this module.
    """

    tokens = 0
    backbone: ExpertNetworks

    def __init__(self, build_network: Callable[[], BackboneClassifier], experts: config.Experts, name: str) -> None:
        shared = None if experts.own_from is None else build_network()
        members = tuple(build_network() for _ in range(experts.number))
        division = None
        if shared is not None and experts.own_from is not None:
            division = _division(members[0], experts.own_from, name)
            division.keep_shared(shared.backbone, experts.own_from)
            for member in members:
                division.keep_owned(member.backbone, experts.own_from)
        networks = ExpertNetworks(None if shared is None else shared.backbone, [member.backbone for member in members])
        super().__init__(networks)
        self._division = division
        self._first_trains_shared = experts.shared_trained_by == "first"
        # A tuple, so that the modules are not registered a second time. `backbone` contains their parameters.
        self._members = members
        first = members[0]
        self.experts, self.width, self.layers = len(members), first.width, first.layers
        self.timm_model, self.unused_from_encoder = first.timm_model, first.unused_from_encoder

    @property
    def linear(self) -> nn.Linear:
        """Not available, because each expert has a classifier of its own (`classifiers`)."""
        raise TypeError("a backbone with experts has no single classifier; use `classifiers`")

    @property
    def classifiers(self) -> tuple[nn.Linear, ...]:
        """The linear layer or cosine classifier of each expert."""
        return tuple(member.linear for member in self._members)

    @property
    def classifier_prefixes(self) -> tuple[str, ...]:
        """Key prefixes of `classifiers` in `backbone.state_dict()`."""
        return self._with_prefixes((self._members[0].head_prefix,))

    def use_cosine_classifier(self, scale: float) -> None:
        """Replace the linear layer of each expert with a new cosine classifier."""
        for member in self._members:
            member.use_cosine_classifier(scale)

    def features(
        self, images: Float[Tensor, "samples 3 rows columns"]
    ) -> tuple[Float[Tensor, "samples experts width"], Float[Tensor, "samples 0 width"]]:
        """Return the pooled feature of each expert, which is the input of its classifier, and no tokens."""
        if self._division is None:
            pooled = [member.features(images)[0] for member in self._members]
        else:
            x = self._division.first_layers(self.backbone.shared, images)
            inputs = [x.detach() if i > 0 and self._first_trains_shared else x for i in range(self.experts)]
            pooled = [
                cast(Dividable, member).features_of(self._division.next_layers(member.backbone, z))[0]
                for member, z in zip(self._members, inputs, strict=True)
            ]
        stacked = torch.stack(pooled, dim=1)
        return stacked, stacked.new_zeros(stacked.shape[0], 0, self.width)

    def forward(
        self,
        images: Float[Tensor, "samples 3 rows columns"],
        drop_path_numbers: Float[Tensor, "samples branches"] | None = None,
    ) -> Float[Tensor, "samples experts classes"]:
        """Return the logits of each expert. In training, `drop_path_numbers` determines which branches are dropped."""
        set_random_numbers(self.backbone, drop_path_numbers)
        pooled = self.features(images)[0].unbind(1)
        return torch.stack([member.linear(z) for member, z in zip(self._members, pooled, strict=True)], dim=1)

    def layer_of(self, parameter: str) -> int:
        """Return the layer index that the parameter has in the complete network."""
        return self._members[0].layer_of(name_in_network(parameter))

    def expert_of(self, parameter: str) -> int | None:
        """Return the index of the expert that owns a parameter, or None for a shared parameter."""
        part, _, name = parameter.partition(".")
        return int(name.partition(".")[0]) if part == "experts" else None

    def exempt_from_decay(self, parameter: str) -> bool:
        """Exempt the parameters that are exempt in the complete network."""
        return self._members[0].exempt_from_decay(name_in_network(parameter))

    @property
    def classifiers_in_weights(self) -> tuple[str, ...]:
        """Key prefixes of the classifiers in weights of the complete network, which are not loaded."""
        return (self._members[0].head_prefix, *self._members[0].other_classifiers)

    @property
    def missing_in_encoder_of_expert(self) -> tuple[str, ...]:
        """Prefixes of further keys of one expert's network that pretrained weights lack (see `missing_in_encoder`)."""
        return self._members[0].missing_in_encoder

    @property
    def new_parameters(self) -> tuple[str, ...]:
        """Key prefixes of the parameters that keep their initial values if pretrained weights are loaded."""
        return self._with_prefixes((*self._members[0].missing_in_encoder, *self.classifiers_in_weights))

    def copies_of(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return weights of the complete network under the names of all their copies.

        Weights that the network does not have keep their names.
        """
        names = {name: name_in_network(name) for name in self.backbone.state_dict()}
        used = set(names.values())
        copies = {name: weights[original] for name, original in names.items() if original in weights}
        return copies | {name: value for name, value in weights.items() if name not in used}

    def _with_prefixes(self, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(f"experts.{i}.{name}" for i in range(self.experts) for name in names)


def name_in_network(parameter: str) -> str:
    """Return the name that a parameter of `ExpertNetworks` has in the complete network."""
    part, _, name = parameter.partition(".")
    return name if part == "shared" else name.partition(".")[2]


def _division(network: BackboneClassifier, own_from: str, name: str) -> Division:
    division = division_of(network)
    try:
        check_own_from(own_from, () if division is None else division.names, name)
    except ValueError as error:
        raise UserError(f"finetune.{error}") from None
    assert division is not None  # `check_own_from` accepts no name without a division
    return division


def options_of_width(settings: config.Backbone, experts: config.Experts) -> dict[str, Any]:
    """Return the arguments of `timm.create_model` for experts whose owned layers have another width.

    Raises:
        UserError: The network is not a ResNet, or a number of channels is not a whole number.
    """
    if experts.width_factor is None or experts.own_from not in RESNET_STAGES:
        return {}  # other values of own_from are rejected when the network is divided
    setting = "finetune.experts.width_factor"
    network = None
    if isinstance(settings, config.TimmNetwork):
        with torch.device("meta"):
            network = timm_network(settings.model, 1)
    if type(network) is not ResNet:
        name = settings.model if isinstance(settings, config.TimmNetwork) else f"kind {settings.kind}"
        raise UserError(f"{setting}: is available for ResNets only, but the backbone is {name}; remove width_factor")
    channels: list[int] = []
    for stage in RESNET_STAGES:
        block = network.get_submodule(stage)[0]  # type: ignore[index]
        planes = next(info["num_chs"] for info in network.feature_info if info["module"] == stage) // block.expansion
        width = planes * (experts.width_factor if stage >= experts.own_from else 1)
        if width != int(width):
            raise UserError(
                f"{setting}: {experts.width_factor:g} times the {planes} channels of {stage} is {width:g}; expected a "
                "whole number; use another factor, for example 0.75"
            )
        channels.append(int(width))
    return {"channels": tuple(channels)}
