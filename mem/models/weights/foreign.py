"""Checkpoints that others made: read as data only, unwrapped, and fitted to our models."""

from __future__ import annotations

import argparse
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mem.errors import UserError
from mem.models.backbones.base import Classifier
from mem.models.backbones.frozen import Frozen
from mem.models.weights.tensors import LoadReport, load_into, load_weights

WRAPPERS = ("model", "state_dict", "model_state_dict")
"""Keys under which training programs keep a model's weights, beside optimizer and settings."""
PREFIXES = ("module.", "_orig_mod.", "encoder.")
"""What DistributedDataParallel, torch.compile and our own autoencoder put before every key."""
AUTOENCODER_ONLY = ("decoder_", "mask_token")
"""Parts of a masked autoencoder that no classifier has a place for."""


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The weights in a .pth or .safetensors file, without what is wrapped around them.

    Raises:
        UserError: The file is missing, damaged, no checkpoint, or holds more than data; says which.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such weights file")
    if path.suffix == ".safetensors":
        return _unprefixed(load_weights(path))
    return _unprefixed(_unwrapped(path, _read_pickle(path)))


def start_classifier(model: Classifier, tensors: Mapping[str, Tensor], origin: str) -> LoadReport:
    """Load foreign weights into a backbone; its classifier stays fresh, positions are interpolated where sizes differ.

    Raises:
        UserError: They do not fit; `origin` and every fault are named.
    """
    own = model.backbone.state_dict()
    found = {name: value for name, value in tensors.items() if not name.startswith(model.head_prefix)}
    fresh = (*model.encoder_fresh, model.head_prefix)
    unused = (*model.encoder_unused, *AUTOENCODER_ONLY)
    return _load(model.backbone, _fitted(found, own), fresh, unused, origin)


def start_frozen(model: Classifier | Frozen, tensors: Mapping[str, Tensor], origin: str) -> LoadReport:
    """Load foreign weights into a backbone that nobody will train: all of it must be in them, but for a classifier.

    Raises:
        UserError: They do not fit; `origin` and every fault are named.
    """
    if isinstance(model, Classifier):
        return start_classifier(model, tensors, origin)
    own = model.backbone.state_dict()
    heads = model.head_prefixes or ("\0",)
    found = {name: value for name, value in tensors.items() if not name.startswith(heads)}
    return _load(model.backbone, _fitted(found, own), (), AUTOENCODER_ONLY, origin)


def start_autoencoder(model: nn.Module, tensors: Mapping[str, Tensor], origin: str) -> LoadReport:
    """Load foreign weights into a masked autoencoder; what they lack of the decoder starts fresh.

    Raises:
        UserError: They do not fit; `origin` and every fault are named.
    """
    own = model.state_dict()
    found = {name if name in own else f"encoder.{name}": value for name, value in tensors.items()}
    decoder = tuple(name for name in own if not name.startswith("encoder.") and name not in found)
    return _load(model, _fitted(found, own), (*decoder, "encoder.norm."), ("encoder.head.", "encoder.fc_norm."), origin)


def _load(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    fresh: tuple[str, ...],
    unused: tuple[str, ...],
    origin: str,
) -> LoadReport:
    own = model.state_dict()
    common = sum(name in own for name in tensors)
    if common < len(own) / 4:
        raise UserError(
            f"{origin} is of another kind of model: {common} of its {len(tensors)} keys are known here. It has "
            f"{', '.join(list(tensors)[:3])}, ...; expected {', '.join(list(own)[:3])}, ..."
        )
    try:
        return load_into(model, tensors, fresh=fresh, unused=unused)
    except UserError as error:
        raise UserError(f"{origin}: {error}") from None


def _read_pickle(path: Path) -> Any:
    with open(path, "rb") as file:
        start = file.read(256).lstrip()
    if not start:
        raise UserError(f"{path}: is empty; download it again")
    if start[:1] == b"<":
        raise UserError(f"{path}: is a web page, not a checkpoint; open the address in a browser and save the file")
    try:
        # Official checkpoints of MAE hold their command line's arguments: a bag of plain values.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        blocked = re.search(r"GLOBAL ([\w.]+)", str(error))
        if blocked:
            raise UserError(
                f"{path}: holds a Python object ({blocked[1]}) beside its tensors. Foreign files are read as "
                "data only, since such an object can run any code. Save the tensors alone: "
                "torch.save(model.state_dict(), path)"
            ) from None
        raise UserError(f"{path}: is no checkpoint of torch, or is damaged") from None
    except Exception as error:  # what torch's reader raises on damaged bytes depends on the bytes
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: is damaged or was not downloaded whole ({reason}); get it again") from None


def _unwrapped(path: Path, content: Any) -> dict[str, Tensor]:
    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
            break
    if not isinstance(content, Mapping):
        raise UserError(f"{path}: holds {type(content).__name__}, expected tensors by name")
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        keys = ", ".join(map(str, list(content)[:5])) or "nothing"
        raise UserError(f"{path}: holds no tensors by name (it has {keys}); expected them at the top or in {WRAPPERS}")
    return tensors


def _unprefixed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in PREFIXES[:2]:
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    # An autoencoder of ours: the decoder's keys have no prefix.
    encoder = {name.removeprefix("encoder."): v for name, v in tensors.items() if name.startswith("encoder.")}
    return {**encoder, **{n: v for n, v in tensors.items() if not n.startswith("encoder.")}} if encoder else tensors


def _fitted(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    found = dict(tensors)
    for name, value in own.items():
        if name.endswith("num_batches_tracked"):
            # Checkpoints from before PyTorch 0.4.1 lack it; nothing here reads it.
            found.setdefault(name, torch.zeros_like(value))
        elif name.split(".")[-1] == "pos_embed" and name in found and found[name].shape[1:] != value.shape[1:]:
            has_class_token = name.removesuffix("pos_embed") + "cls_token" in own
            found[name] = resized_positions(found[name], value.shape[1], int(has_class_token))
    return found


def resized_positions(
    positions: Float[Tensor, "1 old_tokens width"], tokens: int, prefix: int
) -> Float[Tensor, "1 tokens width"]:
    """Positions of a square grid for another grid, interpolated bicubically (facebookresearch/mae, util/pos_embed.py).

    Args:
        positions: Of the class token, if there is one, and of the patches, row by row.
        tokens: How many there should be.
        prefix: How many at the start are no patches.
    """
    old, new = (round((count - prefix) ** 0.5) for count in (positions.shape[1], tokens))
    if old**2 + prefix != positions.shape[1] or new**2 + prefix != tokens:
        return positions  # no square: the difference of shapes is reported
    grid = positions[:, prefix:].reshape(1, old, old, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=(new, new), mode="bicubic", align_corners=False)
    return torch.cat([positions[:, :prefix], grid.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)
