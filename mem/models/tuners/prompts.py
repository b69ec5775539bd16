"""Visual prompt tuning (VPT, Jia et al. 2022): trained tokens that transformer blocks read beside the image."""

from __future__ import annotations

import math
from typing import Any

import torch
from timm.models.eva import EvaBlock
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from mem import config
from mem.errors import UserError
from mem.models.tuners.blocks import block_width, transformer_blocks

PROMPTS = "prompts"
"""Name of the prompts in a block."""


def is_prompt(parameter: str) -> bool:
    """Return whether a parameter consists of prompts. Like other tokens, they have no weight decay."""
    return parameter.rpartition(".")[2] == PROMPTS


def add_prompts(network: nn.Module, tuner: config.VptTuner, name: str) -> None:
    """Add prompts to the transformer blocks, in place.

    The prompts follow the class token and registers, and are removed before the final norm and the pooling. As in
    KMnP/vpt (src/models/vit_prompt/vit.py), they start with uniform numbers between -v and v, where
    v = sqrt(6 / (3 * patch area + width)). There is no dropout and no projection of prompts.

    Args:
        network: The network.
        tuner: Number of prompts, and whether each block has its own.
        name: Name of the network in error messages.

    Raises:
        UserError: The network has no transformer blocks, or blocks that cannot process further tokens.
    """
    blocks = transformer_blocks(network, name, tuner.name)
    other = next((type(block).__name__ for block in blocks if not isinstance(block, Block | EvaBlock)), None)
    patch = getattr(getattr(network, "patch_embed", None), "patch_size", None)
    if other is not None or patch is None:
        raise UserError(
            f"finetune.tuner: `{tuner.name}` is available for ViT, EVA and DINOv3, whose blocks can process further "
            f"tokens, but {name} has {other or 'another embedding of patches'}. Use another tuner, for example lora or "
            "bias."
        )
    width = block_width(blocks[0], name, tuner.name)
    bound = math.sqrt(6 / (3 * math.prod(patch) + width))
    for i, block in enumerate(blocks):
        block.prefix_tokens, block.prompt_tokens = network.num_prefix_tokens, tuner.tokens  # type: ignore[assignment]
        if isinstance(block, EvaBlock):
            # Rotary positions apply to the tokens after this number.
            block.attn.num_prefix_tokens += tuner.tokens  # type: ignore[operator]
        if i == 0 or tuner.deep:
            prompts = torch.empty(tuner.tokens, width, device=next(block.parameters()).device)
            block.register_parameter(PROMPTS, nn.Parameter(prompts.uniform_(-bound, bound)))
            block.register_forward_pre_hook(_insert_prompts)
        if i == len(blocks) - 1 or tuner.deep:
            block.register_forward_hook(_remove_prompts)


def _insert_prompts(block: nn.Module, arguments: Any) -> Any:
    """Return the arguments of a block with its prompts between the prefix tokens and the patch tokens."""
    x, *others = arguments
    prefix: Any = block.prefix_tokens
    # torch.export would treat `len(x)` as a constant.
    prompts = block.get_parameter(PROMPTS).expand(x.shape[0], -1, -1)
    return (torch.cat([x[:, :prefix], prompts, x[:, prefix:]], dim=1), *others)


def _remove_prompts(block: nn.Module, arguments: Any, outputs: Tensor) -> Tensor:
    """Return the outputs of a block without those of the prompts."""
    prefix: Any = block.prefix_tokens
    prompts: Any = block.prompt_tokens
    return torch.cat([outputs[:, :prefix], outputs[:, prefix + prompts :]], dim=1)
