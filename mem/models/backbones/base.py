"""What every backbone with a classifier has: pooled feature, tokens, logits, layers, droppable branches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from jaxtyping import Float
from timm.layers.drop import DropPath
from torch import Tensor, nn

from mem.models.drop_path import SampleDropPath, drop_paths, set_random_numbers

HEAD_INIT_STD = 2e-5
"""Standard deviation of a fresh classifier's weights (facebookresearch/mae, main_finetune.py)."""


class Classifier(nn.Module, ABC):
    """A backbone and a linear classifier on its pooled feature.

    A kind of backbone is a subclass: it makes `backbone`, whose state is what `model.safetensors` holds, and says how
    features, layers and the classifier are found in it.
    """

    head_prefix: str
    """Prefix of the classifier's keys in `backbone.state_dict()`."""
    encoder_fresh: ClassVar[tuple[str, ...]] = ()
    """Prefixes of keys, beside the head's, that a pretrained encoder lacks: they start fresh."""
    encoder_unused: ClassVar[tuple[str, ...]] = ()
    """Prefixes of keys of a pretrained encoder that the classifier has no place for."""
    width: int
    """Dimension of the pooled feature and of a token."""
    tokens: int
    """Tokens that `features` gives for an image."""
    layers: int
    """Number of the last layer, which the classifier belongs to; the first is 0."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        use_sample_drop_paths(self.backbone)
        self.branches = len(drop_paths(self.backbone))

    @property
    @abstractmethod
    def linear(self) -> nn.Linear:
        """The classifier proper."""

    @abstractmethod
    def features(
        self, images: Float[Tensor, "samples 3 rows columns"]
    ) -> tuple[Float[Tensor, "samples width"], Float[Tensor, "samples tokens width"]]:
        """What the classifier sees, and the tokens that it is the mean of (before the norm, where there is one)."""

    @abstractmethod
    def layer_of(self, parameter: str) -> int:
        """Layer of a parameter of `backbone`, by its name there, for layer-wise learning rates."""

    def undecayed(self, parameter: str) -> bool:
        """Whether a parameter with more than one dimension is yet free of weight decay, as positions are."""
        return False

    def forward(
        self,
        images: Float[Tensor, "samples 3 rows columns"],
        draws: Float[Tensor, "samples branches"] | None = None,
    ) -> Float[Tensor, "samples classes"]:
        """Logits. In training, `draws` decides which branches each sample drops."""
        set_random_numbers(self.backbone, draws)
        return self.linear(self.features(images)[0])


def use_sample_drop_paths(model: nn.Module) -> None:
    """Put `SampleDropPath` in place of timm's `DropPath`, at the same rates."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, DropPath):
                setattr(parent, name, SampleDropPath(child.drop_prob))


def seed_torch(seed: int) -> None:
    """Seed the initialisation of the models that are built next."""
    torch.manual_seed(seed)
