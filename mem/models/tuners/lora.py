"""LoRA (Hu et al. 2022): low-rank updates of linear layers."""

from __future__ import annotations

import math
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from mem import config
from mem.errors import UserError
from mem.models.tuners.blocks import transformer_blocks

FUSED = ("query", "key", "value")
"""Parts of the outputs of a layer that computes queries, keys and values."""
PLACES = {
    "query": ("attn.qkv", "attn.q_proj", "attn.q"),
    "key": ("attn.qkv", "attn.k_proj", "attn.k"),
    "value": ("attn.qkv", "attn.v_proj", "attn.v"),
    "projection": ("attn.proj",),
    "mlp_in": ("mlp.fc1", "mlp.fc1_g", "mlp.fc1_x"),
    "mlp_out": ("mlp.fc2",),
}
"""Names in timm's blocks of the layers that `tuner.layers` can contain. Gated perceptrons have two first layers."""


class LowRank(nn.Module):
    """The matrices A (`down`) and B (`up`) of an update B A.

    As in microsoft/LoRA (loralib/layers.py), A starts with uniform numbers between -1 / sqrt(inputs) and
    1 / sqrt(inputs), and B with zeros.
    """

    def __init__(self, inputs: int, outputs: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.empty(rank, inputs))
        self.up = nn.Parameter(torch.zeros(outputs, rank))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, x: Float[Tensor, "*samples inputs"]) -> Float[Tensor, "*samples outputs"]:
        """Return B A x."""
        return F.linear(F.linear(x, self.down), self.up)

    def product(self) -> Float[Tensor, "outputs inputs"]:
        """Return B A."""
        return self.up @ self.down


class LoraLinear(nn.Linear):
    """A linear layer with the outputs W x + b + scale B A x, of which only A and B train.

    `add_lora` changes the class of a layer of the network, so that W and b keep their names. Reading the attribute
    `weight` gives W + scale B A, because some attentions of timm (BEiT, EVA) use the weights of the layer without
    calling it. The matrix products with A and B are cheaper, and are used wherever the layer is called.
    """

    lora: nn.ModuleDict
    """The update of each part of the outputs that is updated."""
    lora_scale: float
    lora_parts: tuple[str, ...]
    """Names of the parts of the outputs, which have equal sizes."""

    @property
    def weight(self) -> Float[Tensor, "outputs inputs"]:  # type: ignore[override]
        """The weights including the updates."""
        weight = self.pretrained_weight
        products = {name: update.product() for name, update in self._updates().items()}
        parts = self._parts(weight, dim=0)
        return torch.cat([self._added(part, products.get(name)) for name, part in parts.items()])

    @property
    def pretrained_weight(self) -> nn.Parameter:
        """The weights without the updates."""
        weight = self._parameters["weight"]
        assert weight is not None
        return weight

    def forward(self, input: Float[Tensor, "*samples inputs"]) -> Float[Tensor, "*samples outputs"]:
        """Return the outputs, including the updates."""
        outputs = F.linear(input, self.pretrained_weight, self.bias)
        parts = self._parts(outputs, dim=-1)
        updates = {name: update(input) for name, update in self._updates().items()}
        changed = [self._added(part, updates.get(name)) for name, part in parts.items()]
        return changed[0] if len(changed) == 1 else torch.cat(changed, dim=-1)

    def _updates(self) -> dict[str, LowRank]:
        return {name: cast(LowRank, update) for name, update in self.lora.items()}

    def _parts(self, values: Tensor, dim: int) -> dict[str, Tensor]:
        """Return the part of the outputs that belongs to each name."""
        return dict(zip(self.lora_parts, values.chunk(len(self.lora_parts), dim=dim), strict=True))

    def _added(self, part: Tensor, update: Tensor | None) -> Tensor:
        return part if update is None else part + self.lora_scale * update


def add_lora(network: nn.Module, tuner: config.LoraTuner, name: str) -> None:
    """Add the updates to the layers of all transformer blocks, in place.

    Args:
        network: The network.
        tuner: Settings of the updates.
        name: Name of the network in error messages.

    Raises:
        UserError: A block lacks one of the layers, or a layer has fewer inputs or outputs than the rank.
    """
    for block in transformer_blocks(network, name, tuner.name):
        for layer in config.LORA_LAYERS:
            if layer in tuner.layers:
                for linear, parts in _places(block, layer, name):
                    _add_update(linear, layer, parts, tuner, name)


def merge_lora(network: nn.Module) -> None:
    """Add the updates to the weights of their layers, in place. The layers are ordinary linear layers afterwards."""
    for module in network.modules():
        if isinstance(module, LoraLinear):
            with torch.no_grad():
                module.pretrained_weight.copy_(module.weight)
            del module.lora, module.lora_scale, module.lora_parts
            module.__class__ = nn.Linear  # pyright: ignore[reportAttributeAccessIssue]


def _places(block: nn.Module, layer: str, name: str) -> list[tuple[nn.Linear, tuple[str, ...]]]:
    """Return the linear layers of a block to which a value of `tuner.layers` refers, and the parts of their outputs."""
    found: list[tuple[nn.Linear, tuple[str, ...]]] = []
    for place in PLACES[layer]:
        parent, _, leaf = place.partition(".")
        module = getattr(getattr(block, parent), leaf, None)
        if type(module) in (nn.Linear, LoraLinear):
            assert isinstance(module, nn.Linear)
            found.append((module, FUSED if leaf == "qkv" else (layer,)))
    if not found:
        raise UserError(
            f"finetune.tuner.layers: {name} has no linear layer for `{layer}` in {type(block).__name__} (expected one "
            f"of {', '.join(PLACES[layer])}). Remove `{layer}`, or use another tuner, for example bias."
        )
    return found


def _add_update(linear: nn.Linear, layer: str, parts: tuple[str, ...], tuner: config.LoraTuner, name: str) -> None:
    outputs = linear.out_features // len(parts)
    if tuner.rank > min(linear.in_features, outputs):
        raise UserError(
            f"finetune.tuner.rank ({tuner.rank}): the layer `{layer}` of {name} has {linear.in_features} inputs and "
            f"{outputs} outputs; use a smaller rank, or finetune all parameters."
        )
    if not isinstance(linear, LoraLinear):
        linear.add_module("lora", nn.ModuleDict())
        linear.lora_scale, linear.lora_parts = tuner.alpha / tuner.rank, parts  # type: ignore[assignment]
        linear.__class__ = LoraLinear
    assert isinstance(linear, LoraLinear)
    linear.lora[layer] = LowRank(linear.in_features, outputs, tuner.rank).to(linear.pretrained_weight.device)
