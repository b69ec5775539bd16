"""Class vectors, and their projection into the space of a backbone's features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from mem.errors import UserError, first_of

TOLERANCE = 0.02
"""Largest relative difference (Frobenius norm) of two projections that count as equal. Published files of the same
weights differ by the rounding of float16."""


@dataclass(frozen=True)
class ClassVectors:
    """One vector per class, in the order of a dataset's classes."""

    embeddings: Float[Tensor, "classes embedding"]
    origin: str
    """Description of the source, for messages."""
    projection: Float[Tensor, "embedding width"] | None = None
    """Matrix that maps an image feature (right factor) to the space of the embeddings. None if there is none."""


def projection_in(tensors: Mapping[str, Tensor], width: int) -> Float[Tensor, "embedding width"] | None:
    """Return the projection of image features in the weights of a CLIP model, or None if there is none.

    timm's networks contain it as the weight of their classifier, which has no bias. open_clip and OpenAI's CLIP contain
    it as `visual.proj`, transposed.

    Args:
        tensors: The weights by name.
        width: Width of the backbone's features.
    """
    for name, value in tensors.items():
        if value.ndim != 2:
            continue
        if f".{name}".endswith(".head.weight") and value.shape[1] == width:
            if f"{name.removesuffix('weight')}bias" not in tensors:
                return value.float()
        elif f".{name}".endswith(".visual.proj") and value.shape[0] == width:
            return value.T.float().contiguous()
    return None


def _chosen_projection(
    vectors: ClassVectors, width: int, of_backbone: Float[Tensor, "_ _"] | None
) -> Float[Tensor, "embedding width"] | None:
    """Return the matrix that maps features of a backbone to the space of class embeddings; None if both are equal.

    Equal widths are not equal spaces: a projection in the weights is used even if it is square.
    """
    found = vectors.embeddings.shape[1]
    own = vectors.projection
    if own is not None and own.shape[1] != width:
        raise UserError(
            f"{vectors.origin}: the projection is for features of width {own.shape[1]}, but the features of the "
            f"backbone have width {width}. Use the text model that was trained with the backbone."
        )
    usable = of_backbone if of_backbone is not None and of_backbone.shape == (found, width) else None
    if own is None:
        if usable is None and found != width:
            raise UserError(
                f"{vectors.origin}: the class embeddings have width {found}, but the features of the backbone have "
                f"width {width}, and neither the embeddings nor the initial weights contain a projection between these "
                "widths. Use embeddings of the text model that was trained with the backbone, and weights that contain "
                "its projection (head.weight in timm's CLIP networks)."
            )
        return usable
    if usable is not None:
        difference = float((own.double() - usable.double()).norm() / usable.double().norm())
        if not difference <= TOLERANCE:
            raise UserError(
                f"{vectors.origin}: the projection of its image features differs from that in the initial weights of "
                f"the backbone (relative difference {difference:.2g}), so that the backbone was trained with another "
                "text model. Use the text model that belongs to the weights."
            )
    return own


def fitting_vectors(vectors: ClassVectors, width: int, of_backbone: Float[Tensor, "_ _"] | None) -> ClassVectors:
    """Return class embeddings with norm 1, and with the projection that maps features of a backbone to their space.

    Args:
        vectors: The class embeddings.
        width: Width of the backbone's features.
        of_backbone: The projection in the initial weights of the backbone, if they contain one.

    Raises:
        UserError: The widths differ and there is no projection that fits, or the projections of the class embeddings
            and of the backbone's weights differ.
    """
    projection = _chosen_projection(vectors, width, of_backbone)
    return ClassVectors(F.normalize(vectors.embeddings, dim=1), vectors.origin, projection)


def weight_vectors(
    vectors: ClassVectors, width: int, of_backbone: Float[Tensor, "_ _"] | None = None
) -> Float[Tensor, "classes {width}"]:
    """Return weight vectors with norm 1 in the space of a backbone's features, with which a classifier starts.

    Source: `init_head_text_feat` of shijxcs/LIFT (trainer.py at 661ead9), which multiplies the normalised text features
    by the transposed projection of CLIP's image features and normalises the products. Arguments and errors are those of
    `fitting_vectors`.
    """
    fitting = fitting_vectors(vectors, width, of_backbone)
    if fitting.projection is None:
        return fitting.embeddings
    return F.normalize(fitting.embeddings @ fitting.projection, dim=1)


def require_usable(embeddings: Tensor, origin: str) -> Float[Tensor, "classes embedding"]:
    """Return class embeddings as float32.

    Raises:
        UserError: They are not a matrix of finite numbers, or a row is 0.
    """
    if embeddings.ndim != 2 or not embeddings.is_floating_point():
        raise UserError(
            f"{origin}: expected class embeddings as floating-point numbers of the shape (classes, width), found "
            f"{str(embeddings.dtype).removeprefix('torch.')} of the shape {tuple(embeddings.shape)}."
        )
    values = embeddings.float()
    bad = ~torch.isfinite(values).all(dim=1) | ~values.any(dim=1)
    if bad.any():
        rows = torch.nonzero(bad).flatten().tolist()
        raise UserError(
            f"{origin}: {len(rows)} of {len(values)} class embeddings are 0 or contain NaN or infinite values (rows "
            f"{first_of(rows)}). Compute them again."
        )
    return values
