"""timm networks, selected by name: convolutional networks and transformers."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, cast

import timm
import torch
from jaxtyping import Float
from timm.models import get_deprecated_models, group_parameters
from torch import Tensor, nn

from mem import config
from mem.errors import UserError
from mem.models.backbones.base import BackboneClassifier
from mem.models.backbones.feature_outputs import feature_shapes, pooled_and_tokens, reason_of
from mem.models.batch_norm import use_sample_batch_norms

NECK = "neck"
"""Name of the fully connected layer after the pooling."""


class TimmClassifier(BackboneClassifier):
    """A timm network with its built-in pooling, optionally followed by a fully connected layer with ReLU (the neck).

    The tokens are the positions that are pooled or, with a neck, the outputs of the neck for these positions.

    Args:
        settings: The architecture.
        classes: Number of outputs of the linear layer.
        drop_path: Stochastic-depth rate of the last block.
        **options: Further arguments of `timm.create_model`.
    """

    def __init__(self, settings: config.TimmNetwork, classes: int, drop_path: float = 0.0, **options: Any) -> None:
        # Settings are frozen, so they have a hash, which the type checker does not see.
        width, tokens = _shapes(settings, classes, tuple(sorted(options.items())))  # type: ignore[arg-type]
        super().__init__(_network(settings, classes, drop_path, options))
        self.timm_model = settings.model
        head = next((name for name, module in self.backbone.named_modules() if module is self.linear), "")
        self.head_prefix = f"{head}."
        self._has_neck = settings.neck_width is not None
        if settings.neck_width is not None:
            add_neck(self.backbone, head, settings.neck_width)
            self.missing_in_encoder = (f"{NECK}.",)
        dependent = _class_dependent_keys(settings.model)
        self.other_classifiers = tuple(key for key in dependent if not key.startswith(self.head_prefix))
        for name, parameter in self.backbone.named_parameters():
            if name.startswith(self.other_classifiers):  # never used, so that they would have no gradient
                parameter.requires_grad_(False)
        self.number_layers()
        self._exempt_from_decay = set(getattr(self.backbone, "no_weight_decay", set)())
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
        """Return the pooled feature, and the positions that are pooled, row by row, without class tokens.

        With a neck, return its outputs for the pooled feature and for each position.
        """
        return self.features_of(self.backbone.forward_features(images))  # type: ignore[operator]

    def features_of(
        self, positions: Any
    ) -> tuple[Float[Tensor, "samples width"], Float[Tensor, "samples tokens width"]]:
        """Return the features (see `features`) from the output of the last layer."""
        pooled, tokens = pooled_and_tokens(self.backbone, positions)
        if not self._has_neck:
            return pooled, tokens
        neck = self.backbone.get_submodule(NECK)
        return torch.relu(neck(pooled)), torch.relu(neck(tokens))

    def layer_of(self, parameter: str) -> int:
        """Return timm's layer index: 0 for the stem, then one per block, and the last layer otherwise."""
        return self._layer_of.get(parameter, self.layers)

    def number_layers(self) -> None:
        """Number the layers as timm does."""
        self._layer_of = self._groups(coarse=False)
        self.layers = max(self._layer_of.values())

    def last_stage(self) -> frozenset[str]:
        """Return the parameters from the last of timm's stages on. Empty if all blocks have the same resolution."""
        if len({info["reduction"] for info in getattr(self.backbone, "feature_info", ())}) < 2:
            return frozenset()
        stages = self._groups(coarse=True)
        last = max(stages.values())
        return frozenset(name for name, stage in stages.items() if stage >= last - 1)

    def _groups(self, *, coarse: bool) -> dict[str, int]:
        """Return the index of the layer, or of the stage if `coarse` is set, of each parameter."""
        matcher = self.backbone.group_matcher(coarse=coarse)  # type: ignore[operator]
        return cast(dict[str, int], group_parameters(self.backbone, matcher, reverse=True))

    def exempt_from_decay(self, parameter: str) -> bool:
        """Exempt the parameters that timm exempts, such as the class token and position embeddings."""
        return parameter in self._exempt_from_decay


def add_neck(network: nn.Module, head: str, width: int) -> None:
    """Add a fully connected layer to a network, and replace its linear classifier with one for the layer's output.

    Source: the layer `fc_add` of zhmiao/OpenLongTailRecognition-OLTR (models/ResNetFeature.py at f50e375), for which
    `TimmClassifier.features` computes the ReLU.

    Args:
        network: The network, changed in place.
        head: Name of its linear classifier.
        width: Number of outputs of the layer.
    """
    linear = network.get_submodule(head)
    assert isinstance(linear, nn.Linear)
    network.add_module(NECK, nn.Linear(linear.in_features, width))
    parent, _, name = head.rpartition(".")
    setattr(network.get_submodule(parent), name, nn.Linear(width, linear.out_features))


def current_name(model: str) -> str:
    """Return the name of a timm architecture, or its current name if timm has renamed it, with a warning.

    Raises:
        UserError: timm has no architecture with this name. The message lists similar names.
    """
    deprecated = get_deprecated_models()
    if model in deprecated:
        current = (deprecated[model] or "").partition(".")[0]
        if not current:
            raise UserError(f"timm removed {model} without a replacement. Choose another network.")
        warnings.warn(f"timm renamed {model} to {current}. Use the name {current}.", stacklevel=2)
        return current
    if not timm.is_model(model) or "." in model:
        similar = difflib.get_close_matches(model.partition(".")[0], timm.list_models(), n=3)
        hint = f" Similar names: {', '.join(similar)}." if similar else ""
        raise UserError(f"timm has no model {model}.{hint} timm.list_models() lists all names.")
    return model


def timm_network(model: str, classes: int, side: int | None = None, **options: Any) -> nn.Module:
    """Build a timm network for square images of `side` pixels.

    `side` is passed to timm only if the architecture depends on the image size. Without `side`, the network has its
    default image size.

    Raises:
        UserError: timm has no such network, or cannot build it with these options.
    """
    model = current_name(model)
    cfg = timm.get_pretrained_cfg(model)
    fixed = side is not None and cfg is not None and cfg.fixed_input_size and cfg.input_size[-1] != side
    sizes = {"img_size": side} if fixed else {}
    try:
        return timm.create_model(model, pretrained=False, num_classes=classes, **sizes, **options)
    except Exception as error:  # the type of the exception depends on the network's code
        requested = {**({"image_size": side} if sizes else {}), **options}
        raise UserError(f"timm cannot build {model} with {requested or 'no options'}: {reason_of(error)}") from None


def default_shapes(model: str) -> tuple[int, dict[str, torch.Size]]:
    """Return the default image size of a timm network, and the shape of each of its parameters and buffers."""
    cfg = timm.get_pretrained_cfg(model)
    with torch.device("meta"):
        state = timm_network(model, 0).state_dict()
    return cfg.input_size[-1] if cfg is not None else 224, {name: value.shape for name, value in state.items()}


def classifier_prefixes(model: str, network: nn.Module) -> tuple[str, ...]:
    """Return the key prefixes of the classifier of a timm network.

    Args:
        model: Name of the architecture.
        network: The network without its classifier.
    """
    cfg = timm.get_pretrained_cfg(model)
    named = (cfg.classifier if cfg is not None else None) or ()
    with torch.device("meta"):
        complete = timm_network(model, 2).state_dict()
    # timm names only the linear layer. Some classifiers have more parameters, such as the norm in LeViT's.
    keys = complete.keys() - network.state_dict().keys()
    return tuple(f"{name}." for name in ((named,) if isinstance(named, str) else named)) + tuple(sorted(keys))


@lru_cache(maxsize=32)
def _class_dependent_keys(model: str) -> tuple[str, ...]:
    """Return the keys whose shape depends on the number of classes, such as those of VOLO's auxiliary classifier."""
    with torch.device("meta"):
        two, three = (timm_network(model, classes).state_dict() for classes in (2, 3))
    return tuple(sorted(name for name, value in two.items() if value.shape != three[name].shape))


def _network(
    settings: config.TimmNetwork, classes: int, drop_path: float, further_options: Mapping[str, Any]
) -> nn.Module:
    # Dropout inside the network is disabled, because it would use PyTorch's global random number generator.
    options: dict[str, Any] = {
        "drop_rate": 0.0,
        **({"drop_path_rate": drop_path} if drop_path else {}),
        **further_options,
    }
    if not settings.zero_init_last:
        options["zero_init_last"] = False
    network = timm_network(settings.model, classes, settings.image_size, **options)
    random = [type(m).__name__ for m in network.modules() if isinstance(m, nn.modules.dropout._DropoutNd) and m.p]
    if random:
        raise UserError(
            f"{settings.model} contains {random[0]}, which uses random numbers that do not depend on the seed. "
            "Choose a network without dropout."
        )
    return network


@lru_cache(maxsize=32)
def _shapes(settings: config.TimmNetwork, classes: int, options: tuple[tuple[str, Any], ...]) -> tuple[int, int]:
    """Return the feature width and the number of tokens, from a forward pass on the meta device."""
    with torch.device("meta"):
        network = _network(settings, classes, 0.0, dict(options)).eval()
    shapes = feature_shapes(network, settings.image_size, settings.model)
    missing = None
    if not hasattr(network, "get_classifier") or not isinstance(network.get_classifier(), nn.Linear):  # type: ignore[operator]
        missing = "does not end in a linear layer on its pooled feature"
    elif not hasattr(network, "group_matcher"):
        missing = "does not number its layers (timm's group_matcher), which layer-wise learning rates require,"
    if missing:
        raise UserError(
            f"{settings.model} {missing} and cannot be finetuned. To use it as a frozen backbone, set finetune to null."
        )
    width, tokens = shapes
    return (width if settings.neck_width is None else settings.neck_width), tokens
