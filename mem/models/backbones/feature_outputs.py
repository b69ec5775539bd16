"""Extraction of pooled features and tokens from the output of any network."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mem.errors import UserError

EXPECTED = (
    "pooled features (images, width), or (images, 1 + tokens, width) with the pooled feature first, or a pair of "
    "pooled features and tokens (images, tokens, width)"
)
"""Supported outputs of a user-provided module for inputs of shape (images, 3, rows, columns)."""
Features = tuple[Float[Tensor, "images width"], Float[Tensor, "images tokens width"]]
"""Pooled features and tokens. The number of tokens per image may be 0."""


def network_features(network: nn.Module, images: Float[Tensor, "images 3 rows columns"], name: str) -> Features:
    """Return the pooled features and tokens of a network, from timm's feature methods or from the network's output.

    Raises:
        UserError: The network's output is not supported. The message refers to the network as `name`.
    """
    if hasattr(network, "forward_features") and hasattr(network, "forward_head"):
        return timm_features(network, images)
    return parse_features(network(images), len(images), name)


def timm_features(network: nn.Module, images: Float[Tensor, "images 3 rows columns"]) -> Features:
    """Return the input of a timm network's classifier, and the positions that are pooled, without class tokens.

    If the positions and the classifier's input differ in width, no tokens are returned. For example, MobileNetV3 has a
    layer between pooling and the classifier.
    """
    return pooled_and_tokens(network, network.forward_features(images))  # type: ignore[operator]


def pooled_and_tokens(network: nn.Module, positions: Any) -> Features:
    """Return the features of a timm network (see `timm_features`) from the output of its last layer."""
    pooled = network.forward_head(positions, pre_logits=True)  # type: ignore[operator]
    width = pooled.shape[1]
    tokens = pooled.new_zeros(pooled.shape[0], 0, width)  # `len` would fix the batch size of an exported program
    if not isinstance(positions, Tensor):
        return pooled, tokens
    if positions.ndim == 4:
        # The channels are the second dimension in most networks, and the last dimension in windowed transformers.
        channels_last = positions.shape[-1] == network.num_features != positions.shape[1]
        positions = positions.flatten(1, 2) if channels_last else positions.flatten(2).transpose(1, 2)
    elif positions.ndim == 3:
        positions = positions[:, _prefix_tokens(network) :]
    return pooled, (positions if positions.ndim == 3 and positions.shape[2] == width else tokens)


def _prefix_tokens(network: nn.Module) -> int:
    count = getattr(network, "num_prefix_tokens", None)
    return int(hasattr(network, "cls_token")) if count is None else int(count)


def parse_features(output: Any, images: int, name: str) -> Features:
    """Convert the output of a user-provided module to pooled features and tokens.

    Raises:
        UserError: The output has none of the forms in `EXPECTED`.
    """
    pooled, tokens = output if isinstance(output, tuple | list) and len(output) == 2 else (output, None)
    if tokens is None and isinstance(pooled, Tensor) and pooled.ndim == 3 and pooled.shape[1]:
        pooled, tokens = pooled[:, 0], pooled[:, 1:]
    if isinstance(pooled, Tensor) and pooled.ndim == 2 and len(pooled) == images and pooled.is_floating_point():
        if tokens is None:
            tokens = pooled.new_zeros(images, 0, pooled.shape[1])
        if isinstance(tokens, Tensor) and tokens.ndim == 3 and tokens.shape[::2] == pooled.shape:
            return pooled, tokens
    raise UserError(f"{name}: returned {_description(output)} for {images} images; expected {EXPECTED}")


def _description(output: Any) -> str:
    if isinstance(output, Tensor):
        return f"a tensor of shape {tuple(output.shape)} and type {str(output.dtype).removeprefix('torch.')}"
    if isinstance(output, tuple | list):
        return f"{type(output).__name__} of {', '.join(map(_description, output)) or 'nothing'}"
    return type(output).__name__


def feature_shapes(network: nn.Module, side: int, name: str) -> tuple[int, int]:
    """Return the feature width and the number of tokens per image, from a forward pass on a square image of zeros.

    Raises:
        UserError: The network does not accept images of this size, or its output is not supported.
    """
    tensor = next(network.parameters(), torch.empty(0))
    was_training = network.training
    try:
        with torch.no_grad():
            image = torch.zeros(1, 3, side, side, device=tensor.device)
            pooled, tokens = network_features(network.eval(), image, name)
    except UserError:
        raise
    except Exception as error:  # the type of the exception depends on the network's code
        raise UserError(f"{name} does not accept images of {side} x {side} pixels: {reason_of(error)}") from error
    network.train(was_training)
    return pooled.shape[1], tokens.shape[1]


def reason_of(error: Exception) -> str:
    """Return an exception's message on one line, or its type if it has no message."""
    return " ".join(str(error).split()) or type(error).__name__
