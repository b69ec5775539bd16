"""Pooled feature and tokens from what anyone's network gives."""

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
"""What one's own module returns for images (images, 3, rows, columns)."""
Features = tuple[Float[Tensor, "images width"], Float[Tensor, "images tokens width"]]
"""Pooled features, and tokens; there may be none of these."""


def features_of(network: nn.Module, images: Float[Tensor, "images 3 rows columns"], name: str) -> Features:
    """Pooled features and tokens of any network: timm's by its two methods, another by what it returns.

    Raises:
        UserError: It returns something else; `name` is the network's in the message.
    """
    if hasattr(network, "forward_features") and hasattr(network, "forward_head"):
        return timm_features(network, images)
    return returned_features(network(images), len(images), name)


def timm_features(network: nn.Module, images: Float[Tensor, "images 3 rows columns"]) -> Features:
    """Timm's own pooling before the classifier, and the positions of what is pooled, without class tokens.

    Where they have another width than the pooled feature (MobileNetV3: a layer follows the pooling) they are left out.
    """
    positions = network.forward_features(images)  # type: ignore[operator]
    pooled = network.forward_head(positions, pre_logits=True)  # type: ignore[operator]
    width = pooled.shape[1]
    tokens = pooled.new_zeros(pooled.shape[0], 0, width)  # `len` would fix the batch in an exported program
    if not isinstance(positions, Tensor):
        return pooled, tokens
    if positions.ndim == 4:
        # Most have channels first; windowed transformers have them last.
        channels_last = positions.shape[-1] == network.num_features != positions.shape[1]
        positions = positions.flatten(1, 2) if channels_last else positions.flatten(2).transpose(1, 2)
    elif positions.ndim == 3:
        positions = positions[:, _prefix_tokens(network) :]
    return pooled, (positions if positions.ndim == 3 and positions.shape[2] == width else tokens)


def _prefix_tokens(network: nn.Module) -> int:
    count = getattr(network, "num_prefix_tokens", None)
    return int(hasattr(network, "cls_token")) if count is None else int(count)


def returned_features(found: Any, images: int, name: str) -> Features:
    """What one's own module returned, as pooled features and tokens.

    Raises:
        UserError: It is not `EXPECTED`.
    """
    pooled, tokens = found if isinstance(found, tuple | list) and len(found) == 2 else (found, None)
    if tokens is None and isinstance(pooled, Tensor) and pooled.ndim == 3 and pooled.shape[1]:
        pooled, tokens = pooled[:, 0], pooled[:, 1:]
    if isinstance(pooled, Tensor) and pooled.ndim == 2 and len(pooled) == images and pooled.is_floating_point():
        if tokens is None:
            tokens = pooled.new_zeros(images, 0, pooled.shape[1])
        if isinstance(tokens, Tensor) and tokens.ndim == 3 and tokens.shape[::2] == pooled.shape:
            return pooled, tokens
    raise UserError(f"{name}: gives {_described(found)} for {images} images; expected {EXPECTED}")


def _described(found: Any) -> str:
    if isinstance(found, Tensor):
        return f"a tensor of shape {tuple(found.shape)} and type {str(found.dtype).removeprefix('torch.')}"
    if isinstance(found, tuple | list):
        return f"{type(found).__name__} of {', '.join(map(_described, found)) or 'nothing'}"
    return type(found).__name__


def shapes_of(network: nn.Module, side: int, name: str) -> tuple[int, int]:
    """Width and number of tokens for images of a size, by one image of zeros.

    Raises:
        UserError: The network does not take such images, or as in `features_of`.
    """
    tensor = next(network.parameters(), torch.empty(0))
    was_training = network.training
    try:
        with torch.no_grad():
            pooled, tokens = features_of(network.eval(), torch.zeros(1, 3, side, side, device=tensor.device), name)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise UserError(f"{name} does not take images of {side} pixels: {error}") from None
    network.train(was_training)
    return pooled.shape[1], tokens.shape[1]
