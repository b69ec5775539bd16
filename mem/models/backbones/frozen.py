"""Networks that are used as they come: timm's by name, and anyone's own module. They have no classifier."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import timm
from jaxtyping import Float
from torch import Tensor, nn

from mem import config
from mem.errors import UserError
from mem.models.backbones.outputs import Features, features_of, shapes_of
from mem.models.backbones.timm_network import timm_network


class Frozen(nn.Module):
    """Any network behind the interface that features are computed through.

    Args:
        backbone: Takes images (images, 3, rows, columns); see `mem.models.backbones.outputs`.
        side: Side of the images, in pixels.
        name: What messages call it.
        head_prefixes: Prefixes of keys of a classifier, which weights in files may have.
    """

    def __init__(self, backbone: nn.Module, side: int, name: str, head_prefixes: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.backbone = backbone
        self.head_prefixes = head_prefixes
        self.name = name
        self.width, self.tokens = shapes_of(self.backbone, side, name)

    def features(self, images: Float[Tensor, "images 3 rows columns"]) -> Features:
        """Pooled features, and tokens."""
        return features_of(self.backbone, images, self.name)

    def forward(self, images: Float[Tensor, "images 3 rows columns"]) -> Float[Tensor, "images width"]:
        """Pooled features."""
        return self.features(images)[0]


def frozen_timm(model: str, side: int) -> Frozen:
    """A network of timm without its classifier.

    Raises:
        UserError: It does not take such images.
    """
    network = timm_network(model, 0, side)
    cfg = timm.get_pretrained_cfg(model)
    heads = (cfg.classifier if cfg is not None else None) or ()
    prefixes = tuple(f"{name}." for name in ((heads,) if isinstance(heads, str) else heads))
    return Frozen(network, side, model, prefixes)


def frozen_module(settings: config.OwnModule) -> Frozen:
    """One's own module, as the function makes it that the study names.

    Raises:
        UserError: File or function are not there, it fails, or returns no module that gives features.
    """
    return Frozen(load_user_module(settings.file, settings.function), settings.image_size, settings.module)


def load_user_module(file: Path, function: str) -> nn.Module:
    """What a function of a Python file makes.

    Raises:
        UserError: As in `frozen_module`.
    """
    where = f"{file}:{function}"
    if not file.is_file():
        raise UserError(f"{file}: no such file (backbone.module: {where})")
    name = f"own_backbone_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise UserError(f"{file}: is no Python file; backbone.module is path/to/file.py:function")
    code = importlib.util.module_from_spec(spec)
    sys.modules[name] = code  # dataclasses and pickles of the file look for themselves there
    try:
        spec.loader.exec_module(code)
        made = getattr(code, function)()
    except Exception as error:  # one's own code may raise anything; it is the user's to mend
        raise UserError(f"{where}: {type(error).__name__}: {error}") from error
    if not isinstance(made, nn.Module):
        raise UserError(f"{where}: returned {type(made).__name__}; expected a torch.nn.Module")
    return made
