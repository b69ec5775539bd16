"""Backbone and head as one module: from pixels to class probabilities, and MEM's group weights and norms."""

from __future__ import annotations

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from mem.heads.base import Head
from mem.heads.mem.head import MemHead
from mem.models.backbones import Classifier
from mem.models.pixels import Pixels


class ImageClassifier(nn.Module):
    """What evaluation does with an image, in one module; nothing in it is specific to a machine or a folder.

    Args:
        model: The finetuned backbone.
        head: The fitted head.
        pixels: The data set's normalisation.
    """

    factor: Float[Tensor, " 3"]
    shift: Float[Tensor, " 3"]

    def __init__(self, model: Classifier, head: Head, pixels: Pixels) -> None:
        super().__init__()
        self.model = model
        self.head = head
        # As in Pixels.normalise, but of the module, so that they follow it to a device and into an exported program.
        factor = torch.tensor([1 / (255 * std) for std in pixels.std])
        shift = torch.tensor([mean / std for mean, std in zip(pixels.mean, pixels.std, strict=True)])
        self.register_buffer("factor", factor, persistent=False)
        self.register_buffer("shift", shift, persistent=False)
        self.requires_grad_(False)
        self.eval()

    @property
    def sees_tokens(self) -> bool:
        """Whether the head takes the patch tokens beside the pooled feature."""
        return isinstance(self.head, MemHead) and self.head.settings.input == "tokens"

    def forward(self, images: UInt8[Tensor, "samples side side 3"]) -> dict[str, Float[Tensor, "samples values"]]:
        """`probabilities` of every class; of MEM, `group_weights` (the paper's w) and `group_norms` (its Q) too."""
        normalised = (images * self.factor - self.shift).permute(0, 3, 1, 2).contiguous()
        pooled, tokens = self.model.features(normalised)
        features = torch.cat([pooled[:, None], tokens], dim=1) if self.sees_tokens else pooled
        if isinstance(self.head, MemHead):
            logits, weights, norms = self.head.modulate(features)
            return {"probabilities": logits.softmax(dim=1), "group_weights": weights, "group_norms": norms}
        return {"probabilities": self.head(features).softmax(dim=1)}
