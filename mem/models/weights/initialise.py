"""Initialise a model from weights that this project or another project pretrained."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mem.errors import UserError
from mem.models.autoencoder import Autoencoder
from mem.models.backbones.base import BackboneClassifier
from mem.models.backbones.frozen import FrozenBackbone
from mem.models.backbones.timm_network import default_shapes
from mem.models.weights.positions import resize_position_tables
from mem.models.weights.tensors import LoadReport, load_into

DECODER_PREFIXES = ("decoder_", "mask_token")
"""Prefixes of the keys that autoencoders have and backbones lack."""


def initialise_from(
    model: BackboneClassifier | FrozenBackbone | Autoencoder, tensors: Mapping[str, Tensor], origin: str
) -> LoadReport:
    """Load pretrained weights into a backbone or an autoencoder.

    The linear layer of a `BackboneClassifier` keeps its initial values. Decoder parameters that the weights lack also
    keep their initial values. For a `FrozenBackbone`, the weights must be complete. Position tables for images of
    another size are interpolated (see `mem.models.weights.positions`).

    Args:
        model: The model, changed in place.
        tensors: The weights by name, as `read_checkpoint` or `load_weights` returns them.
        origin: Description of the weights' source, for error messages.

    Raises:
        UserError: The weights do not fit the model. The message contains `origin` and lists the keys.
    """
    missing: tuple[str, ...]
    unused: tuple[str, ...]
    match model:
        case Autoencoder():
            target: nn.Module = model
            names = model.state_dict().keys()
            tensors = {name if name in names else f"encoder.{name}": value for name, value in tensors.items()}
            decoder = tuple(name for name in names if not name.startswith("encoder.") and name not in tensors)
            missing, unused = (*decoder, "encoder.norm."), ("encoder.head.", "encoder.fc_norm.")
        case BackboneClassifier():
            target = model.backbone
            classifiers = (model.head_prefix, *model.other_classifiers)
            tensors = _without(tensors, classifiers)
            missing, unused = (
                (*model.missing_in_encoder, *classifiers),
                (*model.unused_from_encoder, *DECODER_PREFIXES),
            )
        case FrozenBackbone():
            target = model.backbone
            tensors = _without(tensors, model.head_prefixes)
            missing, unused = (), DECODER_PREFIXES
    expected = target.state_dict()
    tensors = _adapted(tensors, target)
    _require_same_architecture(tensors, expected, origin)
    try:
        return load_into(target, tensors, allow_missing=missing, allow_unused=unused)
    except UserError as error:
        raise UserError(f"{origin}: {error}{_hint_about_size(model, tensors, expected)}") from None


def _without(tensors: Mapping[str, Tensor], prefixes: tuple[str, ...]) -> dict[str, Tensor]:
    return {name: value for name, value in tensors.items() if not name.startswith(prefixes or ("\0",))}


def _require_same_architecture(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], origin: str) -> None:
    common = sum(name in expected for name in tensors)
    if common < len(expected) / 4:
        raise UserError(
            f"{origin}: the weights belong to a different architecture: {common} of {len(tensors)} keys match. Found "
            f"{', '.join(list(tensors)[:3])}, ...; expected {', '.join(list(expected)[:3])}, ..."
        )


def _adapted(tensors: Mapping[str, Tensor], target: nn.Module) -> dict[str, Tensor]:
    adapted = resize_position_tables(tensors, target)
    for name, value in target.state_dict().items():
        if name.endswith("num_batches_tracked"):
            # Checkpoints from before PyTorch 0.4.1 lack this counter, which this project does not use.
            adapted.setdefault(name, torch.zeros_like(value))
    return adapted


def _hint_about_size(model: nn.Module, tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    """Return a hint if the only fault of the weights is that they are for another image size."""
    network = getattr(model, "timm_model", None)
    wrong = [name for name, value in expected.items() if name in tensors and tensors[name].shape != value.shape]
    if network is None or not wrong:
        return ""
    side, shapes = default_shapes(network)
    if any(tensors[name].shape != shapes.get(name) for name in wrong):
        return ""
    return (
        f"\n{network}: these weights are for images of {side} x {side} pixels, and mem cannot adapt {wrong[0]} to "
        f"another size. Use images of this size (image_size: {side})."
    )
