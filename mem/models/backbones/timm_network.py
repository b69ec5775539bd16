"""timm networks, selected by name: convolutional networks and transformers."""

from __future__ import annotations

from typing import Any, cast

import timm
import torch
from jaxtyping import Float
from timm.models import group_parameters
from torch import Tensor, nn

from mem import config
from mem.errors import UserError
from mem.models.backbones.base import BackboneClassifier
from mem.models.backbones.feature_outputs import feature_shapes, timm_features
from mem.models.batch_norm import use_sample_batch_norms


class TimmClassifier(BackboneClassifier):
    """A timm network with its built-in pooling. The tokens are the positions that are pooled."""

    def __init__(self, settings: config.TimmNetwork, classes: int, drop_path: float = 0.0) -> None:
        width, tokens = _shapes(settings, classes)
        super().__init__(_network(settings, classes, drop_path))
        head = next((name for name, module in self.backbone.named_modules() if module is self.linear), "")
        self.head_prefix = f"{head}."
        matcher = self.backbone.group_matcher(coarse=False)  # type: ignore[operator]
        self._layer_of = cast(dict[str, int], group_parameters(self.backbone, matcher, reverse=True))
        self._exempt_from_decay = set(getattr(self.backbone, "no_weight_decay", set)())
        self.layers = max(self._layer_of.values())
        self.width, self.tokens = width, tokens
        if drop_path and not self.branches:
            raise UserError(f"{settings.model} has no residual branches to drop. Set finetune.drop_path to 0.")
        use_sample_batch_norms(self.backbone, settings.norm_batch, settings.model)

    @property
    def linear(self) -> nn.Linear:
        """The linear layer."""
        head = self.backbone.get_classifier()  # type: ignore[operator]
        assert isinstance(head, nn.Linear)
        return head

    def features(
        self, images: Float[Tensor, "samples 3 rows columns"]
    ) -> tuple[Float[Tensor, "samples width"], Float[Tensor, "samples tokens width"]]:
        """Return the pooled feature, and the positions that are pooled, row by row, without class tokens."""
        return timm_features(self.backbone, images)

    def layer_of(self, parameter: str) -> int:
        """Return timm's layer index: 0 for the stem, then one per block, and the last layer otherwise."""
        return self._layer_of.get(parameter, self.layers)

    def exempt_from_decay(self, parameter: str) -> bool:
        """Exempt the parameters that timm exempts, such as the class token and position embeddings."""
        return parameter in self._exempt_from_decay


def timm_network(model: str, classes: int, side: int | None = None, **options: Any) -> nn.Module:
    """Build a timm network for square images of `side` pixels.

    `side` is passed to timm only if the architecture depends on the image size.

    Raises:
        UserError: timm cannot build the network with these options.
    """
    cfg = timm.get_pretrained_cfg(model)
    fixed = side is not None and cfg is not None and cfg.fixed_input_size and cfg.input_size[-1] != side
    sizes = {"img_size": side} if fixed else {}
    try:
        return timm.create_model(model, pretrained=False, num_classes=classes, **sizes, **options)
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        requested = {**({"image_size": side} if sizes else {}), **options}
        raise UserError(f"timm cannot build {model} with {requested or 'no options'}: {error}") from None


def _network(settings: config.TimmNetwork, classes: int, drop_path: float) -> nn.Module:
    # Dropout inside the network is disabled, because it would use PyTorch's global random number generator.
    options = {"drop_rate": 0.0, **({"drop_path_rate": drop_path} if drop_path else {})}
    network = timm_network(settings.model, classes, settings.image_size, **options)
    random = [type(m).__name__ for m in network.modules() if isinstance(m, nn.modules.dropout._DropoutNd) and m.p]
    if random:
        raise UserError(
            f"{settings.model} contains {random[0]}, which uses random numbers that do not depend on the seed. "
            "Choose a network without dropout."
        )
    return network


def _shapes(settings: config.TimmNetwork, classes: int) -> tuple[int, int]:
    """Return the feature width and the number of tokens, from a forward pass on the meta device."""
    with torch.device("meta"):
        network = _network(settings, classes, 0.0).eval()
    shapes = feature_shapes(network, settings.image_size, settings.model)
    if not isinstance(network.get_classifier(), nn.Linear):  # type: ignore[operator]
        raise UserError(
            f"{settings.model} does not end in a linear layer on its pooled feature and cannot be finetuned. "
            "To use it as a frozen backbone, set finetune to null."
        )
    return shapes
