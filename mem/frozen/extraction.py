"""Extract features with any network."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import timm
import torch
from jaxtyping import Float32, Int64
from torch import Tensor, nn

from mem.data.features.arrays import Array, as_numpy
from mem.errors import UserError
from mem.models.backbones.feature_outputs import Features
from mem.models.backbones.frozen import FrozenBackbone, frozen_timm
from mem.models.weights.external import read_checkpoint
from mem.models.weights.initialise import initialise_from


class Extracted(NamedTuple):
    """Features and labels in the format that `fit_head` accepts."""

    features: Float32[np.ndarray, "images *sequence width"]
    labels: Int64[np.ndarray, " images"] | None
    """Labels of all images, or None if the batches had no labels."""


@torch.inference_mode()
def extract(
    network: nn.Module | str,
    images: Array | Iterable[Any],
    *,
    weights: str | Path | None = None,
    tokens: bool = False,
    batch: int = 64,
    device: str | torch.device = "cpu",
) -> Extracted:
    """Compute the features of images with a frozen network.

    Args:
        network: A torch module, or the name of a timm model. A timm module uses its built-in pooling. Any other module
            must return pooled features (images, width), or (images, 1 + tokens, width) with the pooled feature first,
            or a pair of pooled features and tokens.
        images: An array (images, 3, rows, columns), normalised for the network; or an iterable of such batches, with or
            without labels, for example a DataLoader.
        weights: Weights file for a timm model: .pth (only tensors are loaded) or .safetensors.
        tokens: Whether to return tokens too. The features then have the shape (images, 1 + tokens, width).
        batch: Batch size if `images` is an array.
        device: Device on which the features are computed.

    Raises:
        UserError: The network is unknown, returns no features or does not accept images of this size, the weights do
            not match, or the images have another shape or type.
    """
    batches = _batches(images, batch)
    first = next(batches, None)
    if first is None:
        raise UserError("images: expected at least one image, got none")
    side = first[0].shape[-1]
    if isinstance(network, str):
        model = _timm_backbone(network, side, weights)
    elif weights is not None:
        raise UserError(
            "weights: requires the name of a timm model. Load the weights into your module with load_state_dict."
        )
    else:
        model = FrozenBackbone(network, side, type(network).__name__)
    was_training = model.backbone.training
    model.to(device).eval()
    if tokens and not model.tokens:
        raise UserError(f"tokens: {model.name} returns pooled features only. Use tokens=False.")
    features: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    for batch_images, batch_labels in chain([first], batches):
        pooled, sequence = _features(model, batch_images.to(device))
        batch_features = torch.cat([pooled[:, None], sequence], dim=1) if tokens else pooled
        features.append(batch_features.float().cpu().numpy())
        if batch_labels is not None:
            labels.append(as_numpy(batch_labels).astype(np.int64))
    model.backbone.train(was_training)
    return Extracted(np.concatenate(features), np.concatenate(labels) if labels else None)


def _features(model: FrozenBackbone, images: Tensor) -> Features:
    try:
        return model.features(images)
    except (RuntimeError, ValueError, AssertionError) as error:  # raised by torch or by the network
        raise UserError(
            f"{model.name}: cannot process a batch of shape {tuple(images.shape)}: {str(error).splitlines()[0]}. "
            "Resize or crop all images to the same square."
        ) from error


def _timm_backbone(name: str, side: int, weights: str | Path | None) -> FrozenBackbone:
    if not timm.is_model(name):
        similar = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f" Similar names: {', '.join(similar)}." if similar else ""
        raise UserError(f"timm has no model {name}.{hint} timm.list_models() lists all names.")
    model = frozen_timm(name, side)
    if weights is not None:
        initialise_from(model, read_checkpoint(Path(weights)), str(weights))
    return model


def _batches(images: Array | Iterable[Any], batch: int) -> Iterator[tuple[Tensor, Array | None]]:
    """Yield batches of images with labels, or with None if there are no labels."""
    if isinstance(images, torch.Tensor | np.ndarray):
        array = torch.as_tensor(images)
        images = (array[start : start + batch] for start in range(0, len(array), batch))
    for item in images:
        batch_images, labels = (item[0], item[1]) if isinstance(item, tuple | list) else (item, None)
        batch_images = torch.as_tensor(batch_images)
        if batch_images.ndim != 4 or batch_images.shape[1] != 3 or not batch_images.is_floating_point():
            raise UserError(
                f"images: a batch has shape {tuple(batch_images.shape)} and type {batch_images.dtype}; expected "
                f"(images, 3, rows, columns) as floats. {_advice(batch_images)}"
            )
        yield batch_images.float(), labels


def _advice(images: Tensor) -> str:
    """Return how to correct a batch of images of a wrong shape or type."""
    if images.ndim == 4 and images.shape[1] != 3 and images.shape[3] == 3:
        return "Move the channels: images.permute(0, 3, 1, 2) of a tensor, images.transpose(0, 3, 1, 2) of an array."
    if images.ndim == 4 and images.shape[1] == 1:
        return "Repeat the grey channel: images.repeat(1, 3, 1, 1) of a tensor, images.repeat(3, axis=1) of an array."
    if images.ndim == 3:
        return "Add a dimension to a single image: images[None]."
    return "Normalise the images as the network expects them."
