"""Names and shapes of the tensors that weights for a network have, with the classifier and in the network's order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mem.models.autoencoder import Autoencoder
from mem.models.backbones.base import BackboneClassifier
from mem.models.backbones.experts import ExpertClassifier, name_in_network
from mem.models.backbones.frozen import FrozenBackbone
from mem.models.backbones.timm_network import timm_network

ENCODER_PREFIX = "encoder."
"""Key prefix of the encoder in this project's autoencoders; official autoencoders have no prefix."""


@dataclass(frozen=True)
class NetworkNames:
    """The tensors that complete weights for a network contain."""

    tensors: Mapping[str, Tensor]
    """Tensors of these names and shapes, in the order of the network's state dictionary. Their values are not used."""
    classifiers: tuple[str, ...]
    """Key prefixes of the classifiers. Their first dimension is the number of classes."""
    optional: tuple[str, ...]
    """Key prefixes of further tensors that weights may lack."""
    module: nn.Module | None
    """A network with these names, from which tables of positions take the grid of the patches."""

    @property
    def required(self) -> frozenset[str]:
        """Names that weights must contain. Counters and tables of indices, which are not trained, are not required."""
        prefixes = (*self.classifiers, *self.optional)
        return frozenset(
            name for name, value in self.tensors.items() if value.is_floating_point() and not name.startswith(prefixes)
        )


def network_names(model: BackboneClassifier | FrozenBackbone | Autoencoder) -> NetworkNames:
    """Return the names that weights for a model have before they are loaded with `initialise_from`.

    Layers that weights do not contain, such as a neck, are left out. The norm of a `vit` or `convmae` backbone has the
    name that it has in the pretrained encoder. With experts, each tensor has one name.
    """
    match model:
        case Autoencoder():
            state = {name.removeprefix(ENCODER_PREFIX): value for name, value in model.state_dict().items()}
            decoder = tuple(name for name in model.state_dict() if not name.startswith(ENCODER_PREFIX))
            return NetworkNames(state, (), decoder, model.encoder)
        case ExpertClassifier():
            state = {name_in_network(name): value for name, value in model.backbone.state_dict().items()}
            classifiers, module = model.classifiers_in_weights, None
            new, old = model.missing_in_encoder_of_expert, model.unused_from_encoder
        case BackboneClassifier():
            state, module = model.backbone.state_dict(), model.backbone
            classifiers = (model.head_prefix, *model.other_classifiers)
            new, old = model.missing_in_encoder, model.unused_from_encoder
        case FrozenBackbone():
            state, module = model.backbone.state_dict(), model.backbone
            classifiers, new, old = model.head_prefixes, (), ()
    if not old:
        kept = {name: value for name, value in state.items() if not name.startswith(new)}
        return NetworkNames(kept, classifiers, (), module)
    norms = dict(zip(new, old, strict=False))  # `fc_norm.` has the name `norm.` in the pretrained encoder
    renamed = {_with_prefix(name, norms): value for name, value in state.items()}
    return NetworkNames(renamed, classifiers, tuple(norms.values()), module)


def complete_names(model: BackboneClassifier | FrozenBackbone | Autoencoder) -> NetworkNames:
    """Return the names of `network_names` in the order of the complete network, which includes the classifier."""
    names = network_names(model)
    if isinstance(model, Autoencoder) or model.timm_model is None:
        return names
    with torch.device("meta"):
        complete = timm_network(model.timm_model, 2)
    tensors = {name: names.tensors.get(name, value) for name, value in complete.state_dict().items()}
    return NetworkNames(tensors, names.classifiers, (), names.module or complete)


def _with_prefix(name: str, prefixes: Mapping[str, str]) -> str:
    """Return the name with a prefix in `prefixes` replaced."""
    for old, new in prefixes.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name
