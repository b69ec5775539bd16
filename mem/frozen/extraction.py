"""Extract features with any network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor, nn

from mem.data.features.arrays import Array, as_numpy
from mem.errors import UserError
from mem.models.backbones.base import seed_torch
from mem.models.backbones.feature_outputs import Features, reason_of
from mem.models.backbones.frozen import FrozenBackbone, frozen_timm
from mem.models.backbones.timm_network import current_name
from mem.models.weights.external import read_checkpoint
from mem.models.weights.initialise import initialise_from

RANDOM = "random"
"""Value of `weights` that selects random weights."""


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
    seed: int = 0,
) -> Extracted:
    """Compute the features of images with a frozen network.

    Within `torch.autocast(device, torch.bfloat16)`, the network runs in bfloat16. This changes the features,
    which are float32 in any case.

    Args:
        network: A torch module, or the name of a timm model. A timm module uses its built-in pooling. Any other module
            must return pooled features (images, width), or (images, 1 + tokens, width) with the pooled feature first,
            or a pair of pooled features and tokens.
        images: An array (images, 3, rows, columns), normalised for the network; or an iterable of such batches, with or
            without labels, for example a DataLoader.
        weights: Weights file for a timm model: .pth (only tensors are loaded) or .safetensors. `"random"` selects
            random weights, for example for a test of your code.
        tokens: Whether to return tokens too. The features then have the shape (images, 1 + tokens, width).
        batch: Batch size if `images` is an array.
        device: Device on which the features are computed.
        seed: Seed of random weights. The same seed produces the same weights.

    Raises:
        UserError: The network is unknown, returns no features or does not accept images of this size; no weights are
            given for a timm model, or they do not match; or the images cannot be read, have another shape or type, or
            contain values that are not finite. The message contains the numbers of the images, from 0.
    """
    batches = _batches(images, batch)
    first = next(batches, None)
    if first is None:
        raise UserError("images: expected at least one image, got none")
    side = first[0].shape[-1]
    if isinstance(network, str):
        model = _timm_backbone(network, side, weights, seed)
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
    count = 0
    for batch_images, batch_labels in chain([first], batches):
        pooled, sequence = _features(model, batch_images.to(device), count)
        batch_features = torch.cat([pooled[:, None], sequence], dim=1) if tokens else pooled
        features.append(batch_features.float().cpu().numpy())
        _require_like_first(features, batch_images, count)
        if batch_labels is not None:
            labels.append(as_numpy(batch_labels).astype(np.int64))
        count += len(batch_images)
    model.backbone.train(was_training)
    return Extracted(np.concatenate(features), np.concatenate(labels) if labels else None)


def _features(model: FrozenBackbone, images: Tensor, first: int) -> Features:
    """Return the features of a batch whose first image has the number `first`."""
    _require_finite(images, first, "contains pixels that are not finite (NaN or infinity). Correct or remove it.")
    try:
        pooled, tokens = model.features(images)
    except (RuntimeError, ValueError, AssertionError) as error:  # raised by torch or by the network
        raise UserError(
            f"{model.name}: cannot process a batch of shape {tuple(images.shape)} ({_numbers(images, first)}): "
            f"{reason_of(error)}. Resize or crop all images to the same square."
        ) from error
    _require_finite(pooled, first, f"has features that are not finite. Check the weights of {model.name}.")
    return pooled, tokens


def _numbers(images: Tensor, first: int) -> str:
    return f"image {first}" if len(images) == 1 else f"images {first} to {first + len(images) - 1}"


def _require_finite(values: Tensor, first: int, fault: str) -> None:
    bad = (~values.isfinite().flatten(1).all(dim=1)).nonzero().flatten().tolist()
    if bad:
        more = f" {len(bad) - 1} more of this batch have the same fault." if len(bad) > 1 else ""
        raise UserError(f"images: image {first + bad[0]} {fault}{more}")


def _require_like_first(features: list[np.ndarray], images: Tensor, first: int) -> None:
    if features[-1].shape[1:] != features[0].shape[1:]:
        raise UserError(
            f"images: {_numbers(images, first)} of shape {tuple(images.shape[1:])} have features of shape "
            f"{features[-1].shape[1:]}, but those of the first batch have the shape {features[0].shape[1:]}. Resize or "
            "crop all images to the same square."
        )


def _timm_backbone(name: str, side: int, weights: str | Path | None, seed: int) -> FrozenBackbone:
    name = current_name(name)
    if weights is None:
        raise UserError(
            f"weights: {name} has no weights. Pass a weights file: extract({name!r}, images, weights="
            f"'{name}.safetensors'), or load the weights into a torch module and pass the module. For random weights, "
            "pass weights='random' and a seed."
        )
    with torch.random.fork_rng():
        seed_torch(seed)
        model = frozen_timm(name, side)
    if weights != RANDOM:
        initialise_from(model, read_checkpoint(Path(weights)), str(weights))
    return model


def _batches(images: Array | Iterable[Any], batch: int) -> Iterator[tuple[Tensor, Array | None]]:
    """Yield batches of images with labels, or with None if there are no labels."""
    if isinstance(images, torch.Tensor | np.ndarray):
        array = torch.as_tensor(images)
        images = (array[start : start + batch] for start in range(0, len(array), batch))
    count = 0
    for item in _items(images):
        parts = (*item, None) if isinstance(item, tuple | list) and len(item) else (item, None)
        batch_images, labels = parts[:2]
        try:
            batch_images = torch.as_tensor(batch_images)
        except (TypeError, ValueError, RuntimeError) as error:
            raise UserError(
                f"images: the batch that starts with image {count} is no array ({type(batch_images).__name__}: "
                f"{reason_of(error)}); expected (images, 3, rows, columns) as floats"
            ) from error
        if batch_images.ndim != 4 or batch_images.shape[1] != 3 or not batch_images.is_floating_point():
            raise UserError(
                f"images: a batch has shape {tuple(batch_images.shape)} and type {batch_images.dtype}; expected "
                f"(images, 3, rows, columns) as floats. {_advice(batch_images)}"
            )
        yield batch_images.float(), labels
        count += len(batch_images)


def _items(images: Iterable[Any]) -> Iterator[Any]:
    """Yield the items of a user-provided iterable. Raise its errors, such as an unreadable image, as `UserError`."""
    iterator, number = iter(images), 0
    while True:
        try:
            item = next(iterator)
        except StopIteration:
            return
        except UserError:
            raise
        except Exception as error:  # the user's dataset may raise anything
            # A DataLoader's message contains the traceback of its worker. The last line is the reason.
            lines = str(error).strip().splitlines() or [""]
            reason = lines[-1] if len(lines) > 1 else f"{type(error).__name__}: {lines[0]}".removesuffix(": ")
            raise UserError(f"images: batch {number} cannot be read: {reason}. Correct or remove the image.") from error
        yield item
        number += 1


def _advice(images: Tensor) -> str:
    """Return how to correct a batch of images of a wrong shape or type."""
    if images.ndim == 4 and images.shape[1] != 3 and images.shape[3] == 3:
        return "Move the channels: images.permute(0, 3, 1, 2) of a tensor, images.transpose(0, 3, 1, 2) of an array."
    if images.ndim == 4 and images.shape[1] == 1:
        return "Repeat the grey channel: images.repeat(1, 3, 1, 1) of a tensor, images.repeat(3, axis=1) of an array."
    if images.ndim == 3:
        return "Add a dimension to a single image: images[None]."
    return "Normalise the images as the network expects them."
