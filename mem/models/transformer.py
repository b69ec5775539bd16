"""Initialisation, layer norm and position embeddings for all transformers in this package."""

from __future__ import annotations

from functools import partial

import torch
from timm.layers.pos_embed_sincos import build_sincos2d_pos_embed
from torch import nn

layer_norm = partial(nn.LayerNorm, eps=1e-6)


def init_linear(module: nn.Module) -> None:
    """Initialise linear layers with Xavier uniform weights and zero biases (facebookresearch/mae, models_mae.py)."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def fixed_positions(grid: int, width: int, class_tokens: int) -> nn.Parameter:
    """Return fixed sine-cosine position embeddings for a square grid, preceded by a zero vector for each class token.

    The first half of the channels encodes the column, as in facebookresearch/mae, util/pos_embed.py.
    """
    table = build_sincos2d_pos_embed([grid, grid], dim=width, interleave_sin_cos=True)
    rows, columns = table.chunk(2, dim=1)
    table = torch.cat([columns, rows], dim=1)
    return nn.Parameter(torch.cat([torch.zeros(class_tokens, width), table])[None], requires_grad=False)
