"""Combine a backbone and a head into one module that maps pixels to class probabilities."""

from __future__ import annotations

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from mem.heads.base import Head
from mem.heads.mem.modulated import ModulatedHead
from mem.models.backbones import BackboneClassifier, FrozenBackbone
from mem.models.pixels import Pixels

TOLERANCE = 1e-4
"""Largest difference between the outputs of an exported model and those of mem, relative to the largest output or 1."""


class ImageClassifier(nn.Module):
    """Classifies images with the same computation as the stages `features` and `evaluate`.

    Args:
        model: The backbone.
        head: The head.
        pixels: Pixel normalisation of the dataset.
    """

    factor: Float[Tensor, " 3"]
    shift: Float[Tensor, " 3"]

    def __init__(self, model: BackboneClassifier | FrozenBackbone, head: Head, pixels: Pixels) -> None:
        super().__init__()
        self.model = model
        self.head = head
        # Same computation as `Pixels.normalise`. As buffers, the constants move to the module's device and are part of
        # an exported program.
        factor = torch.tensor([1 / (255 * std) for std in pixels.std])
        shift = torch.tensor([mean / std for mean, std in zip(pixels.mean, pixels.std, strict=True)])
        self.register_buffer("factor", factor, persistent=False)
        self.register_buffer("shift", shift, persistent=False)
        self.requires_grad_(False)
        self.eval()

    @property
    def uses_tokens(self) -> bool:
        """Whether the head reads patch tokens in addition to the pooled feature."""
        return self.head.uses_tokens

    def normalised(self, images: UInt8[Tensor, "samples side side 3"]) -> Float[Tensor, "samples 3 side side"]:
        """Return the input of the backbone."""
        return (images * self.factor - self.shift).permute(0, 3, 1, 2).contiguous()

    def forward(self, images: UInt8[Tensor, "samples side side 3"]) -> dict[str, Float[Tensor, "samples values"]]:
        """Return `probabilities` and `logits` of the classes, and for MEM `group_weights` (w) and `group_norms` (Q).

        Args:
            images: Prepared RGB images: cropped and resized to squares as in evaluation.
        """
        pooled, tokens = self.model.features(self.normalised(images))
        features = torch.cat([pooled[:, None], tokens], dim=1) if self.uses_tokens else pooled.flatten(1)
        if isinstance(self.head, ModulatedHead):
            logits, weights, norms = self.head.modulate(features)
            groups = {"group_weights": weights, "group_norms": norms}
            return {"probabilities": logits.softmax(dim=1), "logits": logits, **groups}
        logits = self.head(features)
        return {"probabilities": logits.softmax(dim=1), "logits": logits}


def difference_above_tolerance(found: Tensor, expected: Tensor) -> float | None:
    """Return the largest difference between outputs if it exceeds `TOLERANCE`, otherwise None.

    Infinite values, for example the logits of classes without training images, must be equal.

    Args:
        found: Outputs of the exported model.
        expected: Outputs of `ImageClassifier`.
    """
    if found.shape != expected.shape:
        return float("inf")
    differences = torch.where(found == expected, 0.0, (found - expected).abs())
    largest = differences.nan_to_num(nan=float("inf"), posinf=float("inf")).max().item()
    scale = expected.abs().nan_to_num(posinf=0.0).max().clamp(min=1.0).item()
    return largest if largest > TOLERANCE * scale else None
