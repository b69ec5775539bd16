"""Settings for the tuner of finetuning: which parameters of a pretrained network train, and which layers are added."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import Field, PositiveFloat, PositiveInt, field_validator

from mem.config.backbones import Backbone, ConvMae, TimmNetwork, VisionTransformer
from mem.config.base import Section, accept_name

LoraLayer = Literal["query", "key", "value", "projection", "mlp_in", "mlp_out"]
"""Linear layers of a transformer block: the queries, keys and values of its attention, the projection of the
attention's output, and the first and the second layer of its perceptron."""
LORA_LAYERS: tuple[str, ...] = get_args(LoraLayer)
"""All values of `LoraLayer`, in the order in which initial values are drawn."""


class TunerSection(Section):
    """Base class of the tuners. All of them train the classifier and other layers that pretrained weights lack."""

    adds_layers: ClassVar[bool] = False
    """Whether the tuner adds layers to the network, so that a later stage must build the network with it."""
    name: Any
    """Name of the tuner, of which each subclass allows only one."""

    def __str__(self) -> str:
        """Return the name and the settings, for messages and tables."""
        values = [f"{key} {_text(value)}" for key, value in self if key != "name"]
        return ", ".join([self.name, *values])


class AllParameters(TunerSection):
    """Every parameter trains."""

    name: Literal["all"]


class HeadTuner(TunerSection):
    """Only the classifier trains."""

    name: Literal["head"]


class BiasTuner(TunerSection):
    """The biases of all layers train (BitFit, Zaken et al. 2022)."""

    name: Literal["bias"]


class LastBlocksTuner(TunerSection):
    """The last blocks and the layers after them train."""

    name: Literal["last_blocks"]
    blocks: PositiveInt
    """Number of blocks: transformer blocks, or residual blocks of a convolutional network."""


class LastStageTuner(TunerSection):
    """The last stage of a network of several stages and the layers after it train, for example `layer4` of a ResNet."""

    name: Literal["last_stage"]


class BatchNormTuner(TunerSection):
    """The scales, shifts and running statistics of all BatchNorm layers train."""

    name: Literal["batch_norm"]


class LoraTuner(TunerSection):
    """Low-rank updates of linear layers (LoRA, Hu et al. 2022): W x + alpha / rank B A x, where only A and B train."""

    adds_layers: ClassVar[bool] = True
    name: Literal["lora"]
    rank: PositiveInt
    """Rank r of each update: A has r rows, and B has r columns."""
    alpha: PositiveFloat
    """Numerator of the scale alpha / rank of an update."""
    layers: tuple[LoraLayer, ...]
    """Linear layers of each transformer block that are updated; Hu et al. use `[query, value]`."""

    @field_validator("layers")
    @classmethod
    def _distinct(cls, layers: tuple[LoraLayer, ...]) -> tuple[LoraLayer, ...]:
        if not layers:
            raise ValueError("expected at least one layer")
        if len(set(layers)) != len(layers):
            raise ValueError(f"expected distinct layers, got {list(layers)}")
        return layers


class AdaptFormerTuner(TunerSection):
    """A bottleneck in parallel with the perceptron of each transformer block (AdaptFormer, Chen et al. 2022).

    As in LIFT (Shi et al. 2024), it consists of a layer norm, a linear layer, ReLU and a linear layer that starts at 0.
    """

    adds_layers: ClassVar[bool] = True
    name: Literal["adaptformer"]
    width: PositiveInt
    """Dimension of the bottleneck. For C classes and L blocks, LIFT uses 2^floor(log2(C / (2 L))), but at least 1."""
    scale: Literal["learnt"] | PositiveFloat
    """Factor of the output: a constant, or `learnt` for a trained factor that starts at 1, as in LIFT."""


class VptTuner(TunerSection):
    """Trained tokens (prompts) that the transformer blocks read beside the image (VPT, Jia et al. 2022)."""

    adds_layers: ClassVar[bool] = True
    name: Literal["vpt"]
    tokens: PositiveInt
    """Number of prompts."""
    deep: bool
    """Whether each block has prompts of its own, which replace those of the block before it (VPT-deep). Otherwise, the
    first block receives prompts, which pass through all blocks (VPT-shallow)."""


Tuner = Annotated[
    Annotated[
        AllParameters
        | HeadTuner
        | BiasTuner
        | LastBlocksTuner
        | LastStageTuner
        | BatchNormTuner
        | LoraTuner
        | AdaptFormerTuner
        | VptTuner,
        Field(discriminator="name"),
    ],
    accept_name("name"),
]

ALL_PARAMETERS = AllParameters(name="all")
"""The default tuner."""


def check_tuner(path: str, tuner: TunerSection, backbone: Backbone, *, pretrained: bool) -> None:
    """Check that a tuner fits to a study, as far as this is possible without building the network.

    Args:
        path: Path of the settings of the finetuning, for messages.
        tuner: Settings of the tuner.
        backbone: Settings of the backbone.
        pretrained: Whether finetuning starts from pretrained weights.

    Raises:
        ValueError: The tuner does not fit.
    """
    if isinstance(tuner, AllParameters):
        return
    if not pretrained:
        raise ValueError(
            f"{path}.tuner: `{tuner.name}` trains a small part of a pretrained network, but this study starts from "
            "random weights; set initial or pretrain, or the tuner to all"
        )
    if isinstance(tuner, BatchNormTuner) and not (isinstance(backbone, TimmNetwork) and backbone.norm_batch):
        raise ValueError(
            f"{path}.tuner: `batch_norm` trains BatchNorm layers, but this backbone has none; use another tuner, for "
            "example bias"
        )
    if isinstance(tuner, LastStageTuner) and not isinstance(backbone, TimmNetwork):
        raise ValueError(
            f"{path}.tuner: `last_stage` is available for networks of timm, but backbone.kind is {backbone.kind}; use "
            "last_blocks"
        )
    depth = _depth(backbone)
    if isinstance(tuner, LastBlocksTuner) and depth is not None and tuner.blocks > depth:
        raise ValueError(
            f"{path}.tuner.blocks ({tuner.blocks}) is larger than the number of transformer blocks of the backbone "
            f"({depth})"
        )


def _depth(backbone: Backbone) -> int | None:
    """Return the number of transformer blocks, or None if it depends on the architecture in timm."""
    match backbone:
        case VisionTransformer():
            return backbone.depth
        case ConvMae():
            return backbone.depths[2]
        case _:
            return None


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)
