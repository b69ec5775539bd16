"""Combine a backbone and a head into one module that maps pixels to class probabilities."""

from __future__ import annotations

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from mem.heads.base import Head
from mem.heads.mem.head import MemHead
from mem.models.backbones import BackboneClassifier
from mem.models.pixels import Pixels


class ImageClassifier(nn.Module):
    """Classifies images with the same computation as the stages `features` and `evaluate`.

    Args:
        model: The finetuned backbone.
        head: The head.
        pixels: Pixel normalisation of the dataset.
    """

    factor: Float[Tensor, " 3"]
    shift: Float[Tensor, " 3"]

    def __init__(self, model: BackboneClassifier, head: Head, pixels: Pixels) -> None:
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

    def forward(self, images: UInt8[Tensor, "samples side side 3"]) -> dict[str, Float[Tensor, "samples values"]]:
        """Return the `probabilities` of all classes, and for MEM also `group_weights` (w) and `group_norms` (Q).

        Args:
            images: Prepared RGB images: cropped and resized to squares as in evaluation.
        """
        normalised = (images * self.factor - self.shift).permute(0, 3, 1, 2).contiguous()
        pooled, tokens = self.model.features(normalised)
        features = torch.cat([pooled[:, None], tokens], dim=1) if self.uses_tokens else pooled
        if isinstance(self.head, MemHead):
            logits, weights, norms = self.head.modulate(features)
            return {"probabilities": logits.softmax(dim=1), "group_weights": weights, "group_norms": norms}
        return {"probabilities": self.head(features).softmax(dim=1)}
