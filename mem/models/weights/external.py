"""Reader for checkpoints from other projects. It runs no code from the files and returns unwrapped tensors."""

from __future__ import annotations

import argparse
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mem.errors import UserError
from mem.models.weights.tensors import load_shapes, load_weights

WRAPPERS = ("model", "state_dict", "model_state_dict")
"""Keys under which training programs save a model's weights, alongside the optimizer state and settings."""
REPLICA_PREFIXES = ("module.", "_orig_mod.")
"""Key prefixes that DistributedDataParallel and torch.compile add."""
ENCODER_PREFIX = "encoder."
"""Key prefix of the encoder in this project's autoencoders; official autoencoders have no prefix."""


def read_checkpoint(path: Path, *, shapes_only: bool = False) -> dict[str, Tensor]:
    """Return the tensors of a .pth or .safetensors file by name, with wrappers and key prefixes removed.

    Args:
        path: The file.
        shapes_only: Whether to return tensors on the meta device, which have no values. The values are not read.

    Raises:
        UserError: The file is missing or damaged, is not a checkpoint, or contains objects other than plain data.
    """
    if not path.is_file():
        raise UserError(f"{path}: weights file not found")
    if path.suffix == ".safetensors":
        return _without_prefixes(load_shapes(path) if shapes_only else load_weights(path))
    return _without_prefixes(_unwrap(path, _read_pickle(path, "meta" if shapes_only else "cpu")))


def _read_pickle(path: Path, device: str) -> Any:
    with open(path, "rb") as file:
        start = file.read(256).lstrip()
    if not start:
        raise UserError(f"{path}: the file is empty. Download it again.")
    if start[:1] == b"<":
        raise UserError(
            f"{path}: this is a web page, not a checkpoint. Open the address in a browser and save the file itself."
        )
    try:
        # Official MAE checkpoints contain the training run's command-line arguments, a namespace of plain values.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location=device, weights_only=True)
    except pickle.UnpicklingError as error:
        blocked = re.search(r"GLOBAL ([\w.]+)", str(error))
        if blocked:
            raise UserError(
                f"{path}: contains a Python object ({blocked[1]}) besides tensors. Such objects can run arbitrary "
                "code, so only tensors and plain values are read. Save only the tensors: "
                "torch.save(model.state_dict(), path)"
            ) from None
        raise UserError(f"{path}: not a PyTorch checkpoint, or damaged. Download it again.") from None
    except Exception as error:  # the type of torch's exception depends on the damage
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: damaged or incomplete ({reason}). Download it again.") from None


def _unwrap(path: Path, content: Any) -> dict[str, Tensor]:
    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
            break
    if not isinstance(content, Mapping):
        raise UserError(f"{path}: contains {type(content).__name__}; expected a dictionary of tensors")
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        keys = ", ".join(map(str, list(content)[:5])) or "none"
        raise UserError(
            f"{path}: contains no named tensors (keys: {keys}); expected them at the top level or under one of "
            f"{', '.join(WRAPPERS)}"
        )
    return tensors


def _without_prefixes(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in REPLICA_PREFIXES:
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    # Only autoencoders of this project have the prefix `encoder.`. The keys of their decoders have no prefix.
    encoder = {n.removeprefix(ENCODER_PREFIX): v for n, v in tensors.items() if n.startswith(ENCODER_PREFIX)}
    return {**encoder, **{n: v for n, v in tensors.items() if not n.startswith(ENCODER_PREFIX)}}
