"""Interface for backbones with a linear layer: pooled feature, tokens, logits, layers and droppable branches."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from timm.layers.drop import DropPath
from torch import Tensor, nn

from mem.models.drop_path import SampleDropPath, drop_paths, set_random_numbers

HEAD_INIT_STD = 2e-5
"""Standard deviation of the linear layer's initial weights (facebookresearch/mae, main_finetune.py)."""


class BackboneClassifier(nn.Module, ABC):
    """A backbone and a linear layer that classifies its pooled feature.

    Each kind of backbone is a subclass that builds the module `backbone`. The subclass implements the methods that
    locate features, layers and the linear layer in this module. `backbone` contains the linear layer and is saved as
    `model.safetensors`.
    """

    timm_model: str | None = None
    """Name of the timm architecture; None for other backbones."""
    head_prefix: str
    """Key prefix of the linear layer in `backbone.state_dict()`."""
    other_classifiers: tuple[str, ...] = ()
    """Key prefixes of further parameters that depend on the number of classes. They keep their initial values."""
    missing_in_encoder: tuple[str, ...] = ()
    """Prefixes of additional keys that a pretrained encoder lacks. These parameters keep their initial values."""
    unused_from_encoder: tuple[str, ...] = ()
    """Prefixes of the keys that a pretrained encoder has and the backbone lacks."""
    width: int
    """Dimension of the pooled feature and of each token."""
    tokens: int
    """Number of tokens per image that `features` returns."""
    layers: int
    """Index of the last layer, which includes the linear layer. The first layer is 0."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        use_sample_drop_paths(self.backbone)
        self.branches = len(drop_paths(self.backbone))

    @property
    @abstractmethod
    def linear(self) -> nn.Linear:
        """The linear layer."""

    @abstractmethod
    def features(
        self, images: Float[Tensor, "samples 3 rows columns"]
    ) -> tuple[Float[Tensor, "samples width"], Float[Tensor, "samples tokens width"]]:
        """Return the pooled feature, which is the input of the linear layer, and the tokens.

        Layers between the pooling and the linear layer, such as a norm, are also applied to each token. Without such
        layers, the mean of the tokens is the pooled feature; with them, it usually is not.
        """

    @abstractmethod
    def layer_of(self, parameter: str) -> int:
        """Return the layer index of the `backbone` parameter with this name, for layer-wise learning rates."""

    def exempt_from_decay(self, parameter: str) -> bool:
        """Return whether a multi-dimensional parameter, such as a position embedding, is exempt from weight decay."""
        return False

    def forward(
        self,
        images: Float[Tensor, "samples 3 rows columns"],
        drop_path_numbers: Float[Tensor, "samples branches"] | None = None,
    ) -> Float[Tensor, "samples classes"]:
        """Return the logits. In training, `drop_path_numbers` determines which branches are dropped for each sample."""
        set_random_numbers(self.backbone, drop_path_numbers)
        return self.linear(self.features(images)[0])


def use_sample_drop_paths(model: nn.Module) -> None:
    """Replace each timm `DropPath` in the model with a `SampleDropPath` that has the same rate."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, DropPath):
                setattr(parent, name, SampleDropPath(child.drop_prob))


def seed_torch(seed: int) -> None:
    """Seed PyTorch's global random number generator, which is used to initialise models."""
    torch.manual_seed(seed)
