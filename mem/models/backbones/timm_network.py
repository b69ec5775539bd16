"""Networks of timm by their names: convolutional ones and transformers."""

from __future__ import annotations

from typing import Any, cast

import timm
import torch
from jaxtyping import Float
from timm.models import group_parameters
from torch import Tensor, nn

from mem import config
from mem.errors import UserError
from mem.models.backbones.base import Classifier
from mem.models.backbones.outputs import shapes_of, timm_features
from mem.models.batch_norm import use_sample_batch_norms


class TimmClassifier(Classifier):
    """A network of timm with its own pooling; the positions that are pooled are the tokens."""

    def __init__(self, settings: config.TimmNetwork, classes: int, drop_path: float = 0.0) -> None:
        width, tokens = _shapes(settings, classes)
        super().__init__(_network(settings, classes, drop_path))
        head = next((name for name, module in self.backbone.named_modules() if module is self.linear), "")
        self.head_prefix = f"{head}."
        matcher = self.backbone.group_matcher(coarse=False)  # type: ignore[operator]
        self._layer_of = cast(dict[str, int], group_parameters(self.backbone, matcher, reverse=True))
        self._undecayed = set(getattr(self.backbone, "no_weight_decay", set)())
        self.layers = max(self._layer_of.values())
        self.width, self.tokens = width, tokens
        if drop_path and not self.branches:
            raise UserError(f"{settings.model} has no branches that drop_path could drop: set finetune.drop_path to 0")
        use_sample_batch_norms(self.backbone, settings.norm_batch, settings.model)

    @property
    def linear(self) -> nn.Linear:
        """The classifier proper."""
        head = self.backbone.get_classifier()  # type: ignore[operator]
        assert isinstance(head, nn.Linear)
        return head

    def features(
        self, images: Float[Tensor, "samples 3 rows columns"]
    ) -> tuple[Float[Tensor, "samples width"], Float[Tensor, "samples tokens width"]]:
        """The pooled feature, and the positions that it is pooled from, row by row, without class tokens."""
        return timm_features(self.backbone, images)

    def layer_of(self, parameter: str) -> int:
        """As timm groups them: the stem is layer 0, then a layer a block; what timm leaves out goes with the head."""
        return self._layer_of.get(parameter, self.layers)

    def undecayed(self, parameter: str) -> bool:
        """Class token and positions, as timm names them."""
        return parameter in self._undecayed


def timm_network(model: str, classes: int, side: int | None = None, **options: Any) -> nn.Module:
    """A fresh network of timm, for square images of `side` pixels where its architecture depends on them.

    Raises:
        UserError: It cannot be made so.
    """
    cfg = timm.get_pretrained_cfg(model)
    fixed = side is not None and cfg is not None and cfg.fixed_input_size and cfg.input_size[-1] != side
    sizes = {"img_size": side} if fixed else {}
    try:
        return timm.create_model(model, pretrained=False, num_classes=classes, **sizes, **options)
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        asked = {**({"image_size": side} if sizes else {}), **options}
        raise UserError(f"{model} cannot be made with {asked or 'no options'}: {error}") from None


def _network(settings: config.TimmNetwork, classes: int, drop_path: float) -> nn.Module:
    # Dropout within the network would draw from the global generator.
    options = {"drop_rate": 0.0, **({"drop_path_rate": drop_path} if drop_path else {})}
    network = timm_network(settings.model, classes, settings.image_size, **options)
    random = [type(m).__name__ for m in network.modules() if isinstance(m, nn.modules.dropout._DropoutNd) and m.p]
    if random:
        raise UserError(f"{settings.model} draws random numbers inside ({random[0]}), which no seed here decides")
    return network


def _shapes(settings: config.TimmNetwork, classes: int) -> tuple[int, int]:
    """Width and number of tokens, by a forward pass that computes shapes only."""
    with torch.device("meta"):
        network = _network(settings, classes, 0.0).eval()
    found = shapes_of(network, settings.image_size, settings.model)
    if not isinstance(network.get_classifier(), nn.Linear):  # type: ignore[operator]
        raise UserError(
            f"{settings.model} has no linear classifier after its pooled feature, and so cannot be finetuned here. "
            "Frozen it can be used: finetune: null"
        )
    return found
