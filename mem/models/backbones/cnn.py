"""Convolutional networks of timm."""

from __future__ import annotations

from typing import cast

import timm
import torch
from jaxtyping import Float
from timm.models import group_parameters
from torch import Tensor, nn

from mem import config
from mem.errors import UserError
from mem.models.backbones.base import Classifier
from mem.models.batch_norm import own_batch_norms


class CnnClassifier(Classifier):
    """A network of timm; the pooled feature is the mean over the last feature map, whose positions are the tokens."""

    def __init__(self, settings: config.TimmCnn, classes: int, drop_path: float = 0.0) -> None:
        width, tokens = _shapes(settings, classes)
        super().__init__(_network(settings, classes, drop_path))
        head = next((name for name, module in self.backbone.named_modules() if module is self.linear), "")
        self.head_prefix = f"{head}."
        matcher = self.backbone.group_matcher(coarse=False)  # type: ignore[operator]
        self._layer_of = cast(dict[str, int], group_parameters(self.backbone, matcher, reverse=True))
        self.layers = max(self._layer_of.values())
        self.width, self.tokens = width, tokens
        if drop_path and not self.branches:
            raise UserError(f"{settings.model} has no branches that drop_path could drop: set finetune.drop_path to 0")
        own_batch_norms(self.backbone, settings.norm_batch, settings.model)

    @property
    def linear(self) -> nn.Linear:
        """The classifier proper."""
        head = self.backbone.get_classifier()  # type: ignore[operator]
        assert isinstance(head, nn.Linear)
        return head

    def features(
        self, images: Float[Tensor, "samples 3 rows columns"]
    ) -> tuple[Float[Tensor, "samples width"], Float[Tensor, "samples tokens width"]]:
        """The pooled feature, and the positions of the last feature map, row by row."""
        positions = self.backbone.forward_features(images)  # type: ignore[operator]
        pooled = self.backbone.forward_head(positions, pre_logits=True)  # type: ignore[operator]
        return pooled, positions.flatten(2).transpose(1, 2)

    def layer_of(self, parameter: str) -> int:
        """As timm groups them: the stem is layer 0, then a layer a block; what timm leaves out goes with the head."""
        return self._layer_of.get(parameter, self.layers)


def _network(settings: config.TimmCnn, classes: int, drop_path: float) -> nn.Module:
    # Dropout within the network would draw from the global generator.
    options = {"num_classes": classes, "drop_rate": 0.0, **({"drop_path_rate": drop_path} if drop_path else {})}
    try:
        network = timm.create_model(settings.model, pretrained=False, **options)
    except TypeError as error:
        raise UserError(f"{settings.model} cannot be made with drop_path {drop_path:g}: {error}") from None
    random = [type(m).__name__ for m in network.modules() if isinstance(m, nn.modules.dropout._DropoutNd) and m.p]
    if random:
        raise UserError(f"{settings.model} draws random numbers inside ({random[0]}), which no seed here decides")
    return network


def _shapes(settings: config.TimmCnn, classes: int) -> tuple[int, int]:
    """Width and number of tokens, by a forward pass that computes shapes only."""
    with torch.device("meta"):
        network = _network(settings, classes, 0.0).eval()
        images = torch.empty(1, 3, settings.image_size, settings.image_size)
    try:
        positions = network.forward_features(images)  # type: ignore[operator]
        pooled = network.forward_head(positions, pre_logits=True)  # type: ignore[operator]
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"{settings.model} does not take images of {settings.image_size} pixels: {error}") from None
    if positions.ndim != 4 or pooled.shape != positions.shape[:2]:
        raise UserError(
            f"{settings.model} is no network of this kind: its last feature map has shape {tuple(positions.shape)} and "
            f"its pooled feature {tuple(pooled.shape)}; expected (1, width, rows, columns) and (1, width)"
        )
    if not isinstance(network.get_classifier(), nn.Linear):  # type: ignore[operator]
        raise UserError(f"{settings.model} has no linear classifier after its pooled feature")
    return pooled.shape[1], positions.shape[2] * positions.shape[3]
