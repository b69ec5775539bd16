"""AdaptFormer (Chen et al. 2022) in the form of LIFT (Shi et al. 2024): bottlenecks in parallel with perceptrons."""

from __future__ import annotations

import math
from typing import Any, Literal, cast

import torch
from jaxtyping import Float
from timm.models import beit, eva
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from mem import config
from mem.errors import UserError
from mem.models.tuners.blocks import block_width, transformer_blocks

ADAPTER = "adapter"
"""Name of the bottleneck in a block."""


class Bottleneck(nn.Module):
    """A layer norm, a linear layer, ReLU, and a linear layer that starts at 0, times a scale.

    Source: `AdaptFormer` of shijxcs/LIFT (models/peft_modules.py at 661ead9). There, the scale is always trained.

    Args:
        tokens: Dimension of the tokens.
        width: Dimension between the linear layers.
        scale: Constant factor of the output, or `learnt` for a trained factor that starts at 1.
    """

    def __init__(self, tokens: int, width: int, scale: Literal["learnt"] | float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(tokens)
        self.down = nn.Linear(tokens, width)
        self.up = nn.Linear(width, tokens)
        self.scale = nn.Parameter(torch.ones(1)) if scale == "learnt" else float(scale)
        nn.init.kaiming_normal_(self.down.weight, a=math.sqrt(5))
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(zero)

    def forward(self, x: Float[Tensor, "samples tokens width"]) -> Float[Tensor, "samples tokens width"]:
        """Return what the bottleneck adds to the output of the block."""
        return self.up(torch.relu(self.down(self.norm(x)))) * self.scale


class AdaptedBlock(Block):
    """A block of timm's ViT whose bottleneck reads the input of the second residual branch.

    Stochastic depth applies to the perceptron only, as in ShoufaChen/AdaptFormer (models/custom_modules.py), and layer
    scale as well.
    """

    adapter: Bottleneck

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Return the outputs of the block."""
        x = x + self.drop_path1(self.ls1(self.attn(self.norm1(x), attn_mask=attn_mask, is_causal=is_causal)))
        return x + self.drop_path2(self.ls2(self.mlp(self.norm2(x)))) + self.adapter(x)


class AdaptedEvaBlock(eva.EvaBlock):
    """A block of timm's EVA and DINOv3 with a bottleneck; see `AdaptedBlock`."""

    adapter: Bottleneck

    def forward(self, x: Tensor, *arguments: Any, **named: Any) -> Tensor:
        """Return the outputs of the block. The further arguments are those of the attention."""
        attended = self.attn(self.norm1(x), *arguments, **named)
        x = x + self.drop_path1(attended if self.gamma_1 is None else self.gamma_1 * attended)
        branch = self.mlp(self.norm2(x))
        return x + self.drop_path2(branch if self.gamma_2 is None else self.gamma_2 * branch) + self.adapter(x)


class AdaptedBeitBlock(beit.Block):
    """A block of timm's BEiT with a bottleneck; see `AdaptedBlock`."""

    adapter: Bottleneck

    def forward(self, x: Tensor, shared_rel_pos_bias: Tensor | None = None) -> Tensor:
        """Return the outputs of the block."""
        attended = self.attn(self.norm1(x), shared_rel_pos_bias=shared_rel_pos_bias)
        x = x + self.drop_path1(attended if self.gamma_1 is None else self.gamma_1 * attended)
        branch = self.mlp(self.norm2(x))
        return x + self.drop_path2(branch if self.gamma_2 is None else self.gamma_2 * branch) + self.adapter(x)


ADAPTED: dict[type[nn.Module], type[nn.Module]] = {
    Block: AdaptedBlock,
    eva.EvaBlock: AdaptedEvaBlock,
    beit.Block: AdaptedBeitBlock,
}
"""Classes of blocks, and the classes that compute them with a bottleneck."""


def add_adaptformer(network: nn.Module, tuner: config.AdaptFormerTuner, name: str) -> None:
    """Add a bottleneck to each transformer block, in place. The parameters of the block keep their names.

    Args:
        network: The network.
        tuner: Settings of the bottlenecks.
        name: Name of the network in error messages.

    Raises:
        UserError: The network has no transformer blocks, or blocks of another kind.
    """
    for block in transformer_blocks(network, name, tuner.name):
        if type(block) not in ADAPTED:
            raise UserError(
                f"finetune.tuner: `{tuner.name}` is available for the blocks of ViT, EVA, DINOv3 and BEiT in timm, but "
                f"{name} has {type(block).__name__}. Use another tuner, for example lora or bias."
            )
        width = block_width(block, name, tuner.name)
        device = next(block.parameters()).device
        block.add_module(ADAPTER, Bottleneck(width, tuner.width, cast(Any, tuner.scale)).to(device))
        block.__class__ = ADAPTED[type(block)]
