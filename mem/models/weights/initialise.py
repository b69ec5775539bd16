"""Initialise a model from weights that this project or another project pretrained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from mem.config.initial import Keys
from mem.errors import UserError
from mem.models.autoencoder import Autoencoder
from mem.models.backbones.base import BackboneClassifier
from mem.models.backbones.experts import ExpertClassifier, name_in_network
from mem.models.backbones.frozen import FrozenBackbone
from mem.models.backbones.timm_network import default_shapes
from mem.models.weights.conversion import Mapped, map_by_name
from mem.models.weights.network_names import ENCODER_PREFIX, complete_names, network_names
from mem.models.weights.order import pair_in_order
from mem.models.weights.positions import resize_position_tables
from mem.models.weights.tensors import PAIRS_LISTED, LoadReport, load_into

DECODER_PREFIXES = ("decoder_", "mask_token")
"""Prefixes of the keys that autoencoders have and backbones lack."""
Model = BackboneClassifier | FrozenBackbone | Autoencoder


def initialise_from(model: Model, tensors: Mapping[str, Tensor], origin: str, keys: Keys = "names") -> LoadReport:
    """Load pretrained weights into a backbone or an autoencoder.

    The linear layer of a `BackboneClassifier` keeps its initial values. With experts, the weights are copied into the
    shared layers and into the layers of each expert. Decoder parameters that the weights lack also keep their initial
    values. For a `FrozenBackbone`, the weights must be complete. Position tables for images of another size are
    interpolated (see `mem.models.weights.positions`).

    Args:
        model: The model, changed in place.
        tensors: The weights by name, as `read_checkpoint` or `load_weights` returns them.
        origin: Description of the weights' source, for error messages.
        keys: How tensors of the weights are found: by their names, which are converted if they are those of another
            project (see `mem.models.weights.conversion`), or by their order (see `mem.models.weights.order`).

    Raises:
        UserError: The weights do not fit the model. The message contains `origin` and lists the keys.
    """
    try:
        mapped = _mapped(model, tensors, keys)
    except UserError as error:
        raise UserError(f"{origin}: {error}") from None
    target, found, missing, unused = _adapted_names(model, mapped.tensors)
    try:
        _require_same_architecture(found, target.state_dict(), tensors)
        report = load_into(target, _adapted_values(found, target), allow_missing=missing, allow_unused=unused)
    except UserError as error:
        hint = _hint_about_size(model, found, target.state_dict())
        if keys == "names" and not hint:
            hint = _hint_about_order(model, tensors)
        raise UserError(f"{origin}: {error}{hint}") from None
    return replace(
        report,
        left_over=(*report.left_over, *mapped.left_over),
        conversion=mapped.how,
        pairs=mapped.pairs,
        notes=mapped.notes,
    )


def _mapped(model: Model, tensors: Mapping[str, Tensor], keys: Keys) -> Mapped:
    """Return the weights by the names of the network, before they are adapted to the model."""
    if keys == "names":
        timm_model = None if isinstance(model, Autoencoder) else model.timm_model
        return map_by_name(tensors, network_names(model), timm_model)
    pairs = pair_in_order(tensors, complete_names(model))
    return Mapped({name: tensors[source] for name, source in pairs.items()}, (), "mapped by order and shape", pairs)


def _adapted_names(
    model: Model, tensors: Mapping[str, Tensor]
) -> tuple[nn.Module, dict[str, Tensor], tuple[str, ...], tuple[str, ...]]:
    """Adapt the names of weights to those of a model, and leave out the classifiers.

    Returns:
        The module to load, its weights, prefixes of the keys that the weights may lack, and of those that the module
        may lack.
    """
    match model:
        case Autoencoder():
            names = model.state_dict().keys()
            found = {name if name in names else ENCODER_PREFIX + name: value for name, value in tensors.items()}
            decoder = tuple(name for name in names if not name.startswith(ENCODER_PREFIX) and name not in found)
            return model, found, (*decoder, "encoder.norm."), ("encoder.head.", "encoder.fc_norm.")
        case ExpertClassifier():
            found = model.copies_of(_without(tensors, model.classifiers_in_weights))
            return model.backbone, found, model.new_parameters, (*model.unused_from_encoder, *DECODER_PREFIXES)
        case BackboneClassifier():
            classifiers = (model.head_prefix, *model.other_classifiers)
            found, missing = _without(tensors, classifiers), (*model.missing_in_encoder, *classifiers)
            return model.backbone, found, missing, (*model.unused_from_encoder, *DECODER_PREFIXES)
        case FrozenBackbone():
            return model.backbone, _without(tensors, model.head_prefixes), (), DECODER_PREFIXES


def _without(tensors: Mapping[str, Tensor], prefixes: tuple[str, ...]) -> dict[str, Tensor]:
    return {name: value for name, value in tensors.items() if not name.startswith(prefixes)}


def _require_same_architecture(
    found: Mapping[str, Tensor], expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor]
) -> None:
    """Check that the mapped weights (`found`; in the file: `tensors`) are for this kind of network."""
    common = sum(name in expected for name in found)
    if common < len(expected) / 4:
        raise UserError(
            f"the weights belong to a different architecture: {common} of {len(found)} keys match. Found "
            f"{', '.join(list(tensors)[:3])}, ...; expected {', '.join(list(expected)[:3])}, ..."
        )


def _adapted_values(tensors: Mapping[str, Tensor], target: nn.Module) -> dict[str, Tensor]:
    adapted = resize_position_tables(tensors, target)
    for name, value in target.state_dict().items():
        if name.endswith("num_batches_tracked"):
            # Checkpoints from before PyTorch 0.4.1 lack this counter, which this project does not use.
            adapted.setdefault(name, torch.zeros_like(value))
        elif not value.is_floating_point():
            adapted.setdefault(name, value.clone())  # a table of indices, which follows from the architecture
    return adapted


def _hint_about_order(model: Model, tensors: Mapping[str, Tensor]) -> str:
    """Return a hint if the weights fit the model in their order although their names do not match."""
    try:
        pairs = pair_in_order(tensors, complete_names(model))
    except UserError:
        return ""
    first = "; ".join(f"{name} from {source}" for name, source in list(pairs.items())[:PAIRS_LISTED])
    return (
        f"\nThe order and the shapes of all {len(pairs)} tensors fit ({first}; ...). If the file is of the same "
        "architecture, set initial.keys: order"
    )


def _hint_about_size(model: Model, tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    """Return a hint if the only fault of the weights is that they are for another image size."""
    network = getattr(model, "timm_model", None)
    wrong = [name for name, value in expected.items() if name in tensors and tensors[name].shape != value.shape]
    if network is None or not wrong:
        return ""
    side, shapes = default_shapes(network)
    original = {name: name_in_network(name) if isinstance(model, ExpertClassifier) else name for name in wrong}
    if any(tensors[name].shape != shapes.get(original[name]) for name in wrong):
        return ""
    table = original[wrong[0]]
    return (
        f"\n{network}: these weights are for images of {side} x {side} pixels, and mem cannot adapt {table} to "
        f"another size. Use images of this size (image_size: {side})."
    )
