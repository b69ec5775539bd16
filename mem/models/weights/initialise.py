"""Initialise a model from weights that this project or another project pretrained."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mem.errors import UserError
from mem.models.autoencoder import Autoencoder
from mem.models.backbones.base import BackboneClassifier
from mem.models.backbones.frozen import FrozenBackbone
from mem.models.weights.tensors import LoadReport, load_into

DECODER_PREFIXES = ("decoder_", "mask_token")
"""Prefixes of the keys that autoencoders have and backbones lack."""


def initialise_from(
    model: BackboneClassifier | FrozenBackbone | Autoencoder, tensors: Mapping[str, Tensor], origin: str
) -> LoadReport:
    """Load pretrained weights into a backbone or an autoencoder.

    The linear layer of a `BackboneClassifier` keeps its initial values. Decoder parameters that the weights lack also
    keep their initial values. For a `FrozenBackbone`, the weights must be complete. Position embeddings for a grid of a
    different size are interpolated.

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
            tensors = _without(tensors, (model.head_prefix,))
            missing, unused = (
                (*model.missing_in_encoder, model.head_prefix),
                (*model.unused_from_encoder, *DECODER_PREFIXES),
            )
        case FrozenBackbone():
            target = model.backbone
            tensors = _without(tensors, model.head_prefixes)
            missing, unused = (), DECODER_PREFIXES
    expected = target.state_dict()
    tensors = _adapted(tensors, expected)
    _require_same_architecture(tensors, expected, origin)
    try:
        return load_into(target, tensors, allow_missing=missing, allow_unused=unused)
    except UserError as error:
        raise UserError(f"{origin}: {error}") from None


def _without(tensors: Mapping[str, Tensor], prefixes: tuple[str, ...]) -> dict[str, Tensor]:
    return {name: value for name, value in tensors.items() if not name.startswith(prefixes or ("\0",))}


def _require_same_architecture(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], origin: str) -> None:
    common = sum(name in expected for name in tensors)
    if common < len(expected) / 4:
        raise UserError(
            f"{origin}: the weights belong to a different architecture: {common} of {len(tensors)} keys match. Found "
            f"{', '.join(list(tensors)[:3])}, ...; expected {', '.join(list(expected)[:3])}, ..."
        )


def _adapted(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    adapted = dict(tensors)
    for name, value in expected.items():
        if name.endswith("num_batches_tracked"):
            # Checkpoints from before PyTorch 0.4.1 lack this counter, which this project does not use.
            adapted.setdefault(name, torch.zeros_like(value))
        elif name.split(".")[-1] == "pos_embed" and name in adapted and adapted[name].shape[1:] != value.shape[1:]:
            has_class_token = name.removesuffix("pos_embed") + "cls_token" in expected
            adapted[name] = resize_positions(adapted[name], value.shape[1], int(has_class_token))
    return adapted


def resize_positions(
    positions: Float[Tensor, "1 old_tokens width"], tokens: int, prefix: int
) -> Float[Tensor, "1 tokens width"]:
    """Interpolate position embeddings from one square grid to another with bicubic interpolation.

    Source: facebookresearch/mae, util/pos_embed.py.

    Args:
        positions: Embeddings of the class token, if there is one, and of the patches, row by row.
        tokens: Number of embeddings to return.
        prefix: Number of leading embeddings that do not belong to patches. They are copied.
    """
    old, new = (round((count - prefix) ** 0.5) for count in (positions.shape[1], tokens))
    if old**2 + prefix != positions.shape[1] or new**2 + prefix != tokens:
        return positions  # not a square grid: `load_into` reports the shape mismatch
    grid = positions[:, prefix:].reshape(1, old, old, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=(new, new), mode="bicubic", align_corners=False)
    return torch.cat([positions[:, :prefix], grid.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)
