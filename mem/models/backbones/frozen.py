"""Frozen networks without a classifier: timm networks selected by name, and user-provided modules."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from jaxtyping import Float
from torch import Tensor, nn

from mem import config
from mem.errors import UserError
from mem.models.backbones.feature_outputs import Features, feature_shapes, network_features
from mem.models.backbones.timm_network import classifier_prefixes, current_name, timm_network


class FrozenBackbone(nn.Module):
    """Any network that computes features.

    Args:
        backbone: Network for inputs of shape (images, 3, rows, columns). `mem.models.backbones.feature_outputs`
            describes the supported outputs.
        side: Side of the images, in pixels.
        name: Name of the network in error messages.
        head_prefixes: Key prefixes of a classifier that weights files may contain.
    """

    timm_model: str | None = None
    """Name of the timm architecture; None for other networks."""

    experts = 1
    """Number of experts, which only a trained backbone can have."""

    def __init__(self, backbone: nn.Module, side: int, name: str, head_prefixes: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.backbone = backbone
        self.head_prefixes = head_prefixes
        self.name = name
        self.width, self.tokens = feature_shapes(self.backbone, side, name)

    def features(self, images: Float[Tensor, "images 3 rows columns"]) -> Features:
        """Return pooled features and tokens."""
        return network_features(self.backbone, images, self.name)

    def forward(self, images: Float[Tensor, "images 3 rows columns"]) -> Float[Tensor, "images width"]:
        """Return pooled features."""
        return self.features(images)[0]


def frozen_timm(model: str, side: int) -> FrozenBackbone:
    """Build a timm network without its classifier.

    Raises:
        UserError: timm has no such network, or the network does not accept square images of `side` pixels.
    """
    model = current_name(model)
    network = timm_network(model, 0, side)
    backbone = FrozenBackbone(network, side, model, classifier_prefixes(model, network))
    backbone.timm_model = model
    return backbone


def frozen_module(settings: config.CustomModule) -> FrozenBackbone:
    """Build the user-provided module that a study specifies.

    Raises:
        UserError: The file or function is missing, fails, or returns a module that does not compute features.
    """
    return FrozenBackbone(load_user_module(settings.file, settings.function), settings.image_size, settings.module)


def load_user_module(file: Path, function: str) -> nn.Module:
    """Call a function in a Python file and return the module that it builds.

    Raises:
        UserError: The file or function is missing or fails, or the function does not return a module.
    """
    where = f"{file}:{function}"
    require_module_file(file, where)
    name = f"own_backbone_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise UserError(f"{file}: not a Python file; expected backbone.module as path/to/file.py:function")
    code = importlib.util.module_from_spec(spec)
    sys.modules[name] = code  # dataclasses and pickle look up modules in sys.modules
    try:
        spec.loader.exec_module(code)
        module = getattr(code, function)()
    except Exception as error:  # user code may raise anything
        raise UserError(f"{where}: {type(error).__name__}: {error}") from error
    if not isinstance(module, nn.Module):
        raise UserError(f"{where}: returned {type(module).__name__}; expected a torch.nn.Module")
    return module


def require_module_file(file: Path, setting: str) -> None:
    """Check that the Python file of a user-provided module exists.

    Raises:
        UserError: There is no such file.
    """
    if not file.is_file():
        raise UserError(f"{file}: file not found (backbone.module: {setting})")
