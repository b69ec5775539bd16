"""Interface for backbones with a classifier: pooled feature, tokens, logits, layers and droppable branches."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from timm.layers.drop import DropPath
from torch import Tensor, nn

from mem.config.tuners import ALL_PARAMETERS, AllParameters, TunerSection
from mem.models.batch_norm import SampleBatchNorm
from mem.models.cosine import CosineLinear
from mem.models.drop_path import SampleDropPath, drop_paths, set_random_numbers
from mem.models.training_module import PartlyTrained

HEAD_INIT_STD = 2e-5
"""Standard deviation of the linear layer's initial weights (facebookresearch/mae, main_finetune.py)."""


class BackboneClassifier(PartlyTrained, ABC):
    """A backbone and a linear layer, or a cosine classifier in its place, that classifies its pooled feature.

    Each kind of backbone is a subclass that builds the module `backbone`. The subclass implements the methods that
    locate features, layers and the linear layer in this module. `backbone` contains the linear layer and is saved as
    `model.safetensors`.
    """

    timm_model: str | None = None
    """Name of the timm architecture; None for other backbones."""
    head_prefix: str
    """Key prefix of the linear layer in `backbone.state_dict()`."""
    other_classifiers: tuple[str, ...] = ()
    """Key prefixes of further parameters that depend on the number of classes. They are neither used nor trained."""
    missing_in_encoder: tuple[str, ...] = ()
    """Prefixes of additional keys that a pretrained encoder lacks. These parameters keep their initial values."""
    unused_from_encoder: tuple[str, ...] = ()
    """Prefixes of the keys that a pretrained encoder has and the backbone lacks."""
    experts: int = 1
    """Number of experts, which have one classifier each."""
    width: int
    """Dimension of the pooled feature of one expert, and of each token."""
    tokens: int
    """Number of tokens per image that `features` returns."""
    layers: int
    """Index of the last layer, which includes the linear layer. The first layer is 0."""
    tuner: TunerSection = ALL_PARAMETERS
    """The tuner that was added; see `mem.models.backbones.tuned.add_tuner`."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        use_sample_drop_paths(self.backbone)
        self.branches = len(drop_paths(self.backbone))

    @property
    @abstractmethod
    def linear(self) -> nn.Linear:
        """The linear layer, or the cosine classifier in its place."""

    @property
    def classifiers(self) -> tuple[nn.Linear, ...]:
        """The linear layer or cosine classifier of each expert."""
        return (self.linear,)

    @property
    def classifier_prefixes(self) -> tuple[str, ...]:
        """Key prefixes of `classifiers` in `backbone.state_dict()`."""
        return (self.head_prefix,)

    def use_cosine_classifier(self, scale: float) -> None:
        """Replace the linear layer with a new cosine classifier with the same name."""
        layer = CosineLinear(self.linear.in_features, self.linear.out_features, scale)
        self.backbone.set_submodule(self.head_prefix.removesuffix("."), layer)

    @abstractmethod
    def features(
        self, images: Float[Tensor, "samples 3 rows columns"]
    ) -> tuple[Float[Tensor, "samples *experts width"], Float[Tensor, "samples tokens width"]]:
        """Return the pooled feature, which is the input of the linear layer, and the tokens.

        Layers between the pooling and the linear layer, such as a norm, are also applied to each token. Without such
        layers, the mean of the tokens is the pooled feature; with them, it usually is not.
        """

    @abstractmethod
    def layer_of(self, parameter: str) -> int:
        """Return the layer index of the `backbone` parameter with this name, for layer-wise learning rates."""

    def last_stage(self) -> frozenset[str]:
        """Return the names of the parameters of the last stage. Empty if the network does not consist of stages."""
        return frozenset()

    def number_layers(self) -> None:
        """Number the layers again after layers were added within them."""

    def unchanged_names(self) -> frozenset[str]:
        """Return the names of the parameters and buffers that a tuner does not train. Without a tuner, there are none.

        Buffers are constants, except for the running statistics of BatchNorm layers that train.
        """
        if isinstance(self.tuner, AllParameters):
            return frozenset()
        trained = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        for name, module in self.named_modules():
            if isinstance(module, SampleBatchNorm) and _trains(module):
                trained |= {f"{name}.{buffer}" for buffer, _ in module.named_buffers(recurse=False)}
        return frozenset(self.state_dict().keys() - trained)

    def train(self, mode: bool = True) -> BackboneClassifier:
        """Set training mode. With a tuner, BatchNorm layers that do not train stay in evaluation mode.

        They use the running statistics of the initial weights, which belong to their scales and shifts.
        """
        super().train(mode)
        if mode and not isinstance(self.tuner, AllParameters):
            for module in self.modules():
                if isinstance(module, SampleBatchNorm) and not _trains(module):
                    module.eval()
        return self

    def expert_of(self, parameter: str) -> int | None:
        """Return the index of the expert that owns a parameter, or None if it belongs to no single expert."""
        return None

    def exempt_from_decay(self, parameter: str) -> bool:
        """Return whether a multi-dimensional parameter, such as a position embedding, is exempt from weight decay."""
        return False

    def forward(
        self,
        images: Float[Tensor, "samples 3 rows columns"],
        drop_path_numbers: Float[Tensor, "samples branches"] | None = None,
    ) -> Float[Tensor, "samples *experts classes"]:
        """Return the logits. In training, `drop_path_numbers` determines which branches are dropped for each sample."""
        set_random_numbers(self.backbone, drop_path_numbers)
        return self.linear(self.features(images)[0])


def _trains(norm: SampleBatchNorm) -> bool:
    """Return whether a BatchNorm layer trains: its scale as well as its shift receives gradients."""
    parameters = list(norm.parameters(recurse=False))
    return bool(parameters) and all(parameter.requires_grad for parameter in parameters)


def use_sample_drop_paths(model: nn.Module) -> None:
    """Replace each timm `DropPath` in the model with a `SampleDropPath` that has the same rate."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, DropPath):
                setattr(parent, name, SampleDropPath(child.drop_prob))


def seed_torch(seed: int) -> None:
    """Seed PyTorch's global random number generator, which is used to initialise models."""
    torch.manual_seed(seed)
