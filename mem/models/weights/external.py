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

from mem.config.initial import Keys
from mem.errors import UserError
from mem.models.weights.tensors import load_shapes, load_weights, require_no_pointer
from mem.models.weights.torchscript import is_torchscript, read_torchscript

WRAPPERS = (
    "model", "state_dict", "model_state_dict", "teacher", "target_encoder", "student", "encoder", "module",
    "state_dict_ema", "model_ema",
)  # fmt: skip
"""Keys under which training programs save a model's weights, alongside the optimizer state and settings. If a file
contains several of them, the first is used: of DINO, iBOT, DINOv2 and I-JEPA, this is the network that the authors
evaluate. A moving average of timm, DeiT or ConvNeXt is used only if the file contains no other weights."""
MAX_WRAPPERS = 3
"""Maximum number of wrappers inside one another."""
REPLICA_PREFIXES = ("module.", "_orig_mod.")
"""Key prefixes that DistributedDataParallel and torch.compile add."""


def read_checkpoint(path: Path, *, shapes_only: bool = False, keys: Keys = "names") -> dict[str, Tensor]:
    """Return the tensors of a .pth, .pt or .safetensors file by name, without wrappers and prefixes of replicas.

    Args:
        path: The file.
        shapes_only: Whether to return tensors on the meta device, which have no values. The values are not read.
        keys: How the tensors will be found. For `order`, the file must have kept their order.

    Raises:
        UserError: The file is missing or damaged, is not a checkpoint, contains objects other than plain data, or has
            not kept the order that `keys` requires.
    """
    if not path.is_file():
        raise UserError(f"{path}: weights file not found")
    require_no_pointer(path)
    if path.suffix == ".npz":
        raise UserError(
            f"{path}: NumPy files of JAX programs are not read. Use the same weights from timm's repository on the "
            "Hugging Face hub (initial.weights), or load them into the network of timm, which reads such files "
            "(network.load_pretrained), and save its state_dict with torch.save."
        )
    if path.suffix == ".safetensors":
        if keys == "order":
            raise UserError(
                f"{path}: initial.keys: order is not possible, because a safetensors file sorts its tensors by type "
                "and name. Use the original file of PyTorch (.pth or .bin), or remove initial.keys."
            )
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
        if is_torchscript(path):
            return read_torchscript(path, shapes_only=device == "meta")
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
    for _ in range(MAX_WRAPPERS):
        wrapper = next((each for each in WRAPPERS if _is_wrapper(content, each)), None)
        content = content if wrapper is None else content[wrapper]
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


def _is_wrapper(content: Any, key: str) -> bool:
    return isinstance(content, Mapping) and isinstance(content.get(key), Mapping)


def _without_prefixes(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in REPLICA_PREFIXES:
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors
