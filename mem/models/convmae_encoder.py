"""ConvMAE's encoder (Gao et al. 2022, "ConvMAE: Masked Convolution Meets Masked Autoencoders").

Parameter names and shapes match Alpha-VL/ConvMAE (models_convmae.py, models_convvit.py), so official checkpoints load
directly. The computation differs. The official code computes stages 1 and 2 at every position and then discards the
masked positions, which are three quarters of all positions. Here, the positions of each *cell* (the square of pixels
that a token covers) are consecutive rows of a matrix, and only the rows of visible cells are computed. The rows are
arranged in a grid only for the depthwise convolution, with zeros at masked positions, as masked convolution requires.
Tests compare both computations in double precision.

Within a cell, positions are ordered from coarse to fine: first by their block in the stage-2 grid, then by their
position within the block. The strided convolutions between stages never cross the border of a cell. They are therefore
matrix products over consecutive rows and need no copies.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional as F

from mem import config
from mem.models.drop_path import SampleDropPath
from mem.models.recompute import Recomputing, run_blocks
from mem.models.rows import gather_rows, scatter_rows
from mem.models.transformer import fixed_positions, init_linear, layer_norm

Rows = Float[Tensor, "samples rows _"]
"""Features at the positions of the visible cells, cell by cell."""


class PointwiseConv(nn.Conv2d):
    """A convolution with kernel size 1, applied to rows instead of a grid."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__(width_in, width_out, kernel_size=1)

    def forward(self, input: Rows) -> Rows:
        """Transform each row independently."""
        return F.linear(input, self.weight.flatten(1), self.bias)


class PointwiseMlp(nn.Module):
    """Two pointwise convolutions with a GELU between them."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = PointwiseConv(width, hidden)
        self.act = nn.GELU()
        self.fc2 = PointwiseConv(hidden, width)

    def forward(self, x: Rows) -> Rows:
        """Transform each row independently."""
        return self.fc2(self.act(self.fc1(x)))


class ConvBlock(nn.Module):
    """A masked convolution block: a transformer block with a 5 x 5 depthwise convolution instead of attention."""

    def __init__(self, width: int, mlp_ratio: float, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.conv1 = PointwiseConv(width, width)
        self.attn = nn.Conv2d(width, width, 5, padding=2, groups=width)
        self.conv2 = PointwiseConv(width, width)
        self.drop_path1 = _drop(drop_path)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = PointwiseMlp(width, int(width * mlp_ratio))
        self.drop_path2 = _drop(drop_path)

    def forward(self, x: Rows, indices: Int64[Tensor, " all_rows"], side: int) -> Rows:
        """Apply the block to the visible positions.

        Args:
            x: The visible positions.
            indices: Index of each row in the concatenated raster grids of all samples.
            side: Height and width of a sample's grid.
        """
        x = x + self.drop_path1(self.conv2(self.depthwise(self.conv1(self.norm1(x)), indices, side)))
        return x + self.drop_path2(self.mlp(self.norm2(x)))

    def depthwise(self, x: Rows, indices: Int64[Tensor, " all_rows"], side: int) -> Rows:
        """Apply the depthwise convolution to a grid that is zero at masked positions."""
        samples, rows, width = x.shape
        flat = scatter_rows(x.reshape(-1, width), indices, samples * side * side)
        grid = flat.view(samples, side, side, width).permute(0, 3, 1, 2)
        dense = self.attn(grid).permute(0, 2, 3, 1).reshape(-1, width)
        return gather_rows(dense, indices).view(samples, rows, width)


class PatchEmbedding(nn.Module):
    """Reduces height and width with a strided convolution, followed by a norm and a GELU."""

    def __init__(self, patch: int, width_in: int, width_out: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(width_in, width_out, patch, stride=patch)
        self.norm = nn.LayerNorm(width_out)

    def forward(self, x: Rows, weight: Float[Tensor, "width_out pixels_and_width"]) -> Rows:
        """Embed rows that each contain all positions of a patch. `weight` is the kernel as a matrix in this order."""
        return F.gelu(self.norm(F.linear(x, weight, self.proj.bias)))


class ConvMaeStages(nn.Module, Recomputing):
    """The three stages of the encoder, shared by pretraining and finetuning."""

    _indices1: Int64[Tensor, "cells positions"]
    _indices2: Int64[Tensor, "cells positions"]

    def __init__(self, settings: config.ConvMae, drop_path: float = 0.0) -> None:
        super().__init__()
        self.patch_sizes = settings.patch_sizes
        self.grid = settings.image_size // settings.patch_size
        w1, w2, w3 = settings.widths
        p1, p2, p3 = settings.patch_sizes
        depths, ratios = settings.depths, settings.mlp_ratios
        rates = (drop_path * i / max(1, sum(depths) - 1) for i in range(sum(depths)))
        self.patch_embed1 = PatchEmbedding(p1, 3, w1)
        self.patch_embed2 = PatchEmbedding(p2, w1, w2)
        self.patch_embed3 = PatchEmbedding(p3, w2, w3)
        self.patch_embed4 = nn.Linear(w3, w3)
        self.pos_embed = fixed_positions(self.grid, w3, class_tokens=0)
        self.blocks1 = nn.ModuleList([ConvBlock(w1, ratios[0], next(rates)) for _ in range(depths[0])])
        self.blocks2 = nn.ModuleList([ConvBlock(w2, ratios[1], next(rates)) for _ in range(depths[1])])
        self.blocks3 = nn.ModuleList(
            [_transformer_block(w3, settings.heads, ratios[2], next(rates)) for _ in range(depths[2])]
        )
        self.register_buffer("_indices1", raster_indices(self.grid, p3, p2), persistent=False)
        self.register_buffer("_indices2", raster_indices(self.grid, p3, 1), persistent=False)
        # As in models_convmae.py, the last patch embedding has Xavier weights. The other convolutions keep their
        # default initialisation.
        projection = self.patch_embed3.proj.weight
        nn.init.xavier_uniform_(projection.data.view(len(projection), -1))
        for module in (self.patch_embed4, self.blocks3):
            module.apply(init_linear)

    def stages(
        self, images: Float[Tensor, "samples 3 rows columns"], visible: Int64[Tensor, "samples visible"] | None = None
    ) -> tuple[
        Float[Tensor, "samples fine_rows _"], Float[Tensor, "samples coarse_rows _"], Float[Tensor, "samples cells _"]
    ]:
        """Return the outputs of the three stages at the visible cells, or at all cells if `visible` is None."""
        p1, p2, p3 = self.patch_sizes
        x = split_into_cells(images, self.patch_sizes)
        positions = self.pos_embed
        if visible is None:
            visible = torch.arange(self.grid**2, device=images.device).expand(len(images), -1)
        else:
            positions = positions[0][visible]
            x = x.gather(1, visible[:, :, None].expand(-1, -1, x.shape[2]))
        samples, cells = visible.shape

        x = x.view(samples, cells * (p2 * p3) ** 2, 3 * p1**2)
        x = self.patch_embed1(x, self.patch_embed1.proj.weight.flatten(1))
        side = self.grid * p3 * p2
        indices = _batch_indices(self._indices1, visible, side)
        x = run_blocks(self.blocks1, x, indices, side, recompute=self.recompute)
        first = x

        x = x.reshape(samples, cells * p3**2, -1)
        x = self.patch_embed2(x, conv_as_matrix(self.patch_embed2.proj.weight))
        side = self.grid * p3
        indices = _batch_indices(self._indices2, visible, side)
        x = run_blocks(self.blocks2, x, indices, side, recompute=self.recompute)
        second = x

        x = x.reshape(samples, cells, -1)
        x = self.patch_embed4(self.patch_embed3(x, conv_as_matrix(self.patch_embed3.proj.weight)))
        x = x + positions
        x = run_blocks(self.blocks3, x, recompute=self.recompute)
        return first, second, x


class ConvMaeEncoder(ConvMaeStages):
    """The pretraining encoder. Projections of the outputs of stages 1 and 2 are added before the final norm."""

    def __init__(self, settings: config.ConvMae) -> None:
        super().__init__(settings)
        w1, w2, w3 = settings.widths
        _, p2, p3 = settings.patch_sizes
        self.stage1_output_decode = nn.Conv2d(w1, w3, p2 * p3, stride=p2 * p3)
        self.stage2_output_decode = nn.Conv2d(w2, w3, p3, stride=p3)
        self.norm = layer_norm(w3)

    def forward(
        self, images: Float[Tensor, "samples 3 rows columns"], visible: Int64[Tensor, "samples visible"]
    ) -> Float[Tensor, "samples visible width"]:
        """Return the latents of the visible patches."""
        first, second, x = self.stages(images, visible)
        _, p2, p3 = self.patch_sizes
        fine = self.stage1_output_decode
        weight = fine.weight.unflatten(3, (p3, p2)).unflatten(2, (p3, p2))
        weight = weight.permute(0, 2, 4, 3, 5, 1).flatten(1)
        x = x + F.linear(first.reshape(*x.shape[:2], -1), weight, fine.bias)
        coarse = self.stage2_output_decode
        x = x + F.linear(second.reshape(*x.shape[:2], -1), conv_as_matrix(coarse.weight), coarse.bias)
        return self.norm(x)


# --- rows and grids ------------------------------------------------------------------------------------------


def split_into_cells(
    images: Float[Tensor, "samples 3 rows columns"], patch_sizes: tuple[int, int, int]
) -> Float[Tensor, "samples cells pixels"]:
    """Return the pixels of each cell, ordered by stage-2 block, position in the block, channel, row and column."""
    p1, p2, p3 = patch_sizes
    grid = images.shape[2] // (p1 * p2 * p3)
    split = images.view(len(images), 3, grid, p3, p2, p1, grid, p3, p2, p1)
    return split.permute(0, 2, 6, 3, 7, 4, 8, 1, 5, 9).reshape(len(images), grid**2, -1)


def raster_indices(grid: int, blocks: int, within: int) -> Int64[Tensor, "cells positions"]:
    """Return the index of each position of each cell in a raster grid with side length `grid * blocks * within`."""
    raster = torch.arange((grid * blocks * within) ** 2)
    split = raster.view(grid, blocks, within, grid, blocks, within)
    return split.permute(0, 3, 1, 4, 2, 5).reshape(grid**2, -1)


def conv_as_matrix(weight: Float[Tensor, "width_out width_in rows columns"]) -> Float[Tensor, "width_out all"]:
    """Return the weight of a strided convolution as a matrix for rows of positions with channels last."""
    return weight.permute(0, 2, 3, 1).flatten(1)


def _batch_indices(
    indices: Int64[Tensor, "cells positions"], visible: Int64[Tensor, "samples visible"], side: int
) -> Int64[Tensor, " all_rows"]:
    offsets = torch.arange(len(visible), device=visible.device) * side**2
    return (indices[visible] + offsets[:, None, None]).flatten()


def _drop(rate: float) -> nn.Module:
    return SampleDropPath(rate) if rate else nn.Identity()


def _transformer_block(width: int, heads: int, mlp_ratio: float, drop_path: float) -> Block:
    block = Block(width, heads, mlp_ratio=mlp_ratio, qkv_bias=True, norm_layer=layer_norm)  # type: ignore[arg-type]
    block.drop_path1, block.drop_path2 = _drop(drop_path), _drop(drop_path)  # type: ignore[assignment]
    return block
