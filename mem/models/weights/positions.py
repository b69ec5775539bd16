"""Resize the tensors of a checkpoint whose shape depends on the image size: position embeddings and relative biases.

The kind of a table follows from the last part of its name and from its shape:

- (1, rows, width): a grid of patches, after prefix rows for class tokens and registers. The prefix rows are copied. The
  number of prefix rows follows from the grid of the model, or from the sizes of both tables.
- (1, width, height, width of the grid) or (1, height, width of the grid, width): a grid.
- (1, blocks, positions, width): a grid that is divided into square blocks (NesT).
- relative_position_bias_table: biases by relative position in a window (Swin, MaxViT, BEiT).
- rel_pos_h, rel_pos_w: embeddings by relative position on one axis (MViTv2, SAM).
- attention_biases: biases by distance on both axes (LeViT, EfficientFormerV2, TinyViT).

Sources of the interpolation: facebookresearch/mae (util/pos_embed.py) for grids, microsoft/Swin-Transformer (utils.py)
and microsoft/Cream (TinyViT/utils.py) for relative biases, and facebookresearch/mvit (mvit/models/attention.py).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

MAX_PREFIX_ROWS = 16
"""Maximum number of prefix rows of a table whose grid is not known."""
BEIT_EXTRA_ROWS = 3
"""Rows of BEiT's tables of relative biases that belong to the class token."""
_EMBEDDING = re.compile(r"(decoder_)?pos_embed(_?\d+)?|patch_pos")


def resize_position_tables(tensors: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Return the tensors, with each position table interpolated to the shape that the model expects.

    Tables that cannot be resized are returned unchanged: `load_into` reports their shapes.
    """
    resized = dict(tensors)
    for name, expected in model.state_dict().items():
        if name in tensors and tensors[name].shape != expected.shape and tensors[name].is_floating_point():
            table = tensors[name]
            table = table.float() if table.itemsize < torch.float32.itemsize else table  # half precision is too coarse
            table = resize_position_table(name, table, expected.shape, model)
            if table is not None and table.shape == expected.shape:
                resized[name] = table.to(tensors[name].dtype)
    return resized


def resize_position_table(name: str, table: Tensor, shape: torch.Size, model: nn.Module) -> Tensor | None:
    """Interpolate a table of positions to another shape. Return None if the tensor is no table that can be resized.

    Args:
        name: Name of the tensor in the model's state dictionary.
        table: The tensor.
        shape: The shape that the model expects.
        model: The model, from which the grid of the patches is taken.
    """
    parent, _, leaf = name.rpartition(".")
    changed = [
        axis for axis in range(len(shape)) if len(table.shape) == len(shape) and table.shape[axis] != shape[axis]
    ]
    match leaf, len(shape), changed:
        case "relative_position_bias_table", 2 | 3, _:
            return _resized_relative_biases(table, shape)
        case "rel_pos_h" | "rel_pos_w", 2, [0]:
            return F.interpolate(table.T[None], size=shape[0], mode="linear")[0].T
        case "attention_biases", 2, [1]:
            grids = _side(table.shape[1]), _side(shape[1])
            return _bicubic(table.unflatten(1, (grids[0],) * 2)[None], grids[1])[0].flatten(1) if all(grids) else None
        case _ if not _EMBEDDING.fullmatch(leaf):
            return None
        case _, 3, [1]:
            prefix = _prefix_rows(table.shape[1], shape[1], _grid(model, parent))
            return None if prefix is None else resize_positions(table, shape[1], prefix)
        case _, 4, [2, 3] if shape[2] == shape[3]:
            return _bicubic(table, shape[2])
        case _, 4, [1, 2] if shape[1] == shape[2]:
            return _bicubic(table.permute(0, 3, 1, 2), shape[1]).permute(0, 2, 3, 1)
        case _, 4, [2]:
            return _resized_blocks(table, shape)
        case _:
            return None


def resize_positions(
    positions: Float[Tensor, "1 old_tokens width"], tokens: int, prefix: int
) -> Float[Tensor, "1 tokens width"]:
    """Interpolate position embeddings from one square grid to another with bicubic interpolation.

    Args:
        positions: Embeddings of the class tokens and registers, if there are any, and of the patches, row by row.
        tokens: Number of embeddings to return.
        prefix: Number of leading embeddings that do not belong to patches. They are copied.
    """
    old, new = (_side(count - prefix) for count in (positions.shape[1], tokens))
    if not old or not new:
        return positions  # not a square grid: `load_into` reports the shape mismatch
    grid = positions[:, prefix:].reshape(1, old, old, -1).permute(0, 3, 1, 2)
    return torch.cat([positions[:, :prefix], _bicubic(grid, new).permute(0, 2, 3, 1).flatten(1, 2)], dim=1)


def _prefix_rows(old: int, new: int, grid: tuple[int, int] | None) -> int | None:
    """Return the number of rows that belong to no patch, for tables with `old` and `new` rows."""
    if grid is not None and _side(old - (prefix := new - grid[0] * grid[1])):
        return prefix
    counts = range(min(old, new, MAX_PREFIX_ROWS + 1))
    return next((count for count in counts if _side(old - count) and _side(new - count)), None)


def _grid(model: nn.Module, parent: str) -> tuple[int, int] | None:
    """Return the grid of the patch embedding next to a table, or None if it is not known."""
    module = model.get_submodule(parent)
    grid = getattr(getattr(module, "patch_embed", None), "grid_size", None)
    return (grid[0], grid[1]) if isinstance(grid, tuple) and len(grid) == 2 else None


def _resized_relative_biases(table: Tensor, shape: torch.Size) -> Tensor | None:
    if len(shape) == 3:
        return _bicubic(table[None], shape[1])[0]
    for extra in (0, BEIT_EXTRA_ROWS):
        old, new = _side(table.shape[0] - extra), _side(shape[0] - extra)
        if old and new:
            grid = table[: old**2].T.reshape(1, -1, old, old)
            return torch.cat([_bicubic(grid, new)[0].flatten(1).T, table[old**2 :]])
    return None


def _resized_blocks(
    table: Float[Tensor, "1 blocks positions width"], shape: torch.Size
) -> Float[Tensor, "1 blocks new_positions width"] | None:
    blocks, old, new = (_side(count) for count in (table.shape[1], table.shape[2], shape[2]))
    if not (blocks and old and new):
        return None
    grid = table.reshape(1, blocks, blocks, old, old, -1).permute(0, 5, 1, 3, 2, 4).reshape(1, -1, *(blocks * old,) * 2)
    grid = _bicubic(grid, blocks * new).reshape(1, -1, blocks, new, blocks, new)
    return grid.permute(0, 2, 4, 3, 5, 1).reshape(shape)


def _bicubic(
    grid: Float[Tensor, "tables channels rows columns"], side: int
) -> Float[Tensor, "tables channels side side"]:
    return F.interpolate(grid, size=(side, side), mode="bicubic", align_corners=False)


def _side(positions: int) -> int:
    """Return the side of a square grid with this number of positions, or 0 if there is no such grid."""
    side = math.isqrt(max(positions, 0))
    return side if side**2 == positions else 0
