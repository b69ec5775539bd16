"""Features of anyone's network, from Python."""

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
from mem.models.backbones.frozen import FrozenBackbone, frozen_timm
from mem.models.weights.external import read_checkpoint
from mem.models.weights.initialise import initialise_from


class Extracted(NamedTuple):
    """What `fit_head` takes."""

    features: Float32[np.ndarray, "images *sequence width"]
    labels: Int64[np.ndarray, " images"] | None
    """Of all images, where the batches came with labels."""


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
    """Features that a network, which stays as it is, gives for images.

    Args:
        network: A torch module, or a name of timm's. A module of timm is pooled by its own pooling; any other returns
            pooled features (images, width), or (images, 1 + tokens, width) with the pooled feature first, or a pair of
            pooled features and tokens.
        images: (images, 3, rows, columns), normalised as the network wants it; or batches of these, alone or each with
            its labels, as a DataLoader gives them.
        weights: A file of weights for a name of timm's: .pth, read as data only, or .safetensors.
        tokens: Whether tokens are kept: features are then (images, 1 + tokens, width).
        batch: Images at a time, where they are one array.
        device: Where it is computed.

    Raises:
        UserError: There is no such network, it gives no features, the weights do not fit, or there are no images.
    """
    batches = _batches(images, batch)
    first = next(batches, None)
    if first is None:
        raise UserError("images: there are none")
    side = first[0].shape[-1]
    if isinstance(network, str):
        model = _named(network, side, weights)
    elif weights is not None:
        raise UserError("weights: go with a name of timm's; load them into your own module by load_state_dict")
    else:
        model = FrozenBackbone(network, side, type(network).__name__)
    training = model.backbone.training
    model.to(device).eval()
    if tokens and not model.tokens:
        raise UserError(f"tokens: {model.name} gives pooled features only")
    features: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    for pictures, classes in chain([first], batches):
        pooled, sequence = model.features(pictures.to(device))
        found = torch.cat([pooled[:, None], sequence], dim=1) if tokens else pooled
        features.append(found.float().cpu().numpy())
        if classes is not None:
            labels.append(as_numpy(classes).astype(np.int64))
    model.backbone.train(training)
    return Extracted(np.concatenate(features), np.concatenate(labels) if labels else None)


def _named(name: str, side: int, weights: str | Path | None) -> FrozenBackbone:
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        raise UserError(f"timm has no model {name}" + (f"; near it are {', '.join(near)}" if near else ""))
    model = frozen_timm(name, side)
    if weights is not None:
        initialise_from(model, read_checkpoint(Path(weights)), str(weights))
    return model


def _batches(images: Array | Iterable[Any], batch: int) -> Iterator[tuple[Tensor, Array | None]]:
    if isinstance(images, torch.Tensor | np.ndarray):
        whole = torch.as_tensor(images)
        images = (whole[start : start + batch] for start in range(0, len(whole), batch))
    for one in images:
        pictures, labels = (one[0], one[1]) if isinstance(one, tuple | list) else (one, None)
        pictures = torch.as_tensor(pictures)
        if pictures.ndim != 4 or not pictures.is_floating_point():
            raise UserError(
                f"images: a batch has shape {tuple(pictures.shape)} and type {pictures.dtype}; expected floating-point "
                "(images, 3, rows, columns), normalised"
            )
        yield pictures, labels
