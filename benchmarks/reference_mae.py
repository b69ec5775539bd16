"""Reimplementation of the public MAE and ConvMAE code, for comparison in benchmarks/pretrain.py.

It performs the same computations as the public code:

- explicit attention products and softmax, as in timm 0.3.2, which both repositories pin
- dense channels-first stages 1 and 2 in ConvMAE
- patch projection before masked patches are dropped
- projection of the decoder output and loss computation at every patch
- restoration of the patch order with two sorts and a gather

Parameter names are the same as in the public code.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor, nn

from mem import config
from mem.models.transformer import fixed_positions

_norm = partial(nn.LayerNorm, eps=1e-6)


class Attention(nn.Module):
    """Softmax attention that computes the attention weights explicitly."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens of shape (samples, tokens, width)."""
        samples, tokens, width = x.shape
        split = self.qkv(x).reshape(samples, tokens, 3, self.heads, width // self.heads)
        q, k, v = split.permute(2, 0, 3, 1, 4)
        weights = ((q @ k.transpose(2, 3)) * (width // self.heads) ** -0.5).softmax(dim=3)
        return self.proj((weights @ v).transpose(1, 2).reshape(samples, tokens, width))


class Mlp(nn.Module):
    """Two linear layers (or, for grids, pointwise convolutions) with a GELU in between."""

    def __init__(self, width: int, hidden: int, *, grid: bool) -> None:
        super().__init__()
        layer = partial(nn.Conv2d, kernel_size=1) if grid else nn.Linear
        self.fc1, self.act, self.fc2 = layer(width, hidden), nn.GELU(), layer(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layers at every position."""
        return self.fc2(self.act(self.fc1(x)))


class Block(nn.Module):
    """A transformer block."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attn = _norm(width), Attention(width, heads)
        self.norm2, self.mlp = _norm(width), Mlp(width, 4 * width, grid=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens of shape (samples, tokens, width)."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class GridNorm(nn.LayerNorm):
    """Layer norm over the channels of a channels-first grid."""

    def forward(self, input: Tensor) -> Tensor:
        """Map grids of shape (samples, width, rows, columns)."""
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class GridBlock(nn.Module):
    """A masked convolution block."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = GridNorm(width)
        self.conv1, self.conv2 = nn.Conv2d(width, width, 1), nn.Conv2d(width, width, 1)
        self.attn = nn.Conv2d(width, width, 5, padding=2, groups=width)
        self.norm2, self.mlp = GridNorm(width), Mlp(width, hidden, grid=True)

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        """Map grids of shape (samples, width, rows, columns). `keep` is 1 at visible positions and 0 elsewhere."""
        x = x + self.conv2(self.attn(keep * self.conv1(self.norm1(x))))
        return x + self.mlp(self.norm2(x))


class GridEmbed(nn.Module):
    """A strided convolution, a norm and a GELU."""

    def __init__(self, patch: int, width_in: int, width_out: int) -> None:
        super().__init__()
        self.proj, self.norm = nn.Conv2d(width_in, width_out, patch, stride=patch), GridNorm(width_out)
        self.act = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        """Map grids of shape (samples, width, rows, columns)."""
        return self.act(self.norm(self.proj(x)))


class Reference(nn.Module):
    """MAE or ConvMAE autoencoder, including masking, decoder and loss."""

    def __init__(
        self, backbone: config.VisionTransformer | config.ConvMae, decoder: config.Decoder, mask_ratio: float
    ) -> None:
        super().__init__()
        self.patch, self.tokens = backbone.patch_size, backbone.tokens
        self.grid = math.isqrt(self.tokens)
        self.mask_ratio = mask_ratio
        self.own = int(isinstance(backbone, config.VisionTransformer))
        width = backbone.width
        self.pos_embed = fixed_positions(self.grid, width, self.own)
        self.norm = _norm(width)
        if isinstance(backbone, config.ConvMae):
            self.patch_sizes = backbone.patch_sizes
            widths = (3, *backbone.widths)
            for i, patch in enumerate(backbone.patch_sizes):
                self.add_module(f"patch_embed{i + 1}", GridEmbed(patch, widths[i], widths[i + 1]))
            self.patch_embed4 = nn.Linear(width, width)
            _, p2, p3 = backbone.patch_sizes
            self.stage1_output_decode = nn.Conv2d(widths[1], width, p2 * p3, stride=p2 * p3)
            self.stage2_output_decode = nn.Conv2d(widths[2], width, p3, stride=p3)
            for i in (1, 2):
                hidden = int(widths[i] * backbone.mlp_ratios[i - 1])
                blocks = nn.ModuleList([GridBlock(widths[i], hidden) for _ in range(backbone.depths[i - 1])])
                self.add_module(f"blocks{i}", blocks)
            self.blocks3 = nn.ModuleList([Block(width, backbone.heads) for _ in range(backbone.depths[2])])
        else:
            self.patch_embed = nn.Module()
            self.patch_embed.proj = nn.Conv2d(3, width, self.patch, stride=self.patch)
            self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
            self.blocks = nn.ModuleList([Block(width, backbone.heads) for _ in range(backbone.depth)])
        self.decoder_embed = nn.Linear(width, decoder.width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder.width))
        self.decoder_pos_embed = fixed_positions(self.grid, decoder.width, self.own)
        self.decoder_blocks = nn.ModuleList([Block(decoder.width, decoder.heads) for _ in range(decoder.depth)])
        self.decoder_norm = _norm(decoder.width)
        self.decoder_pred = nn.Linear(decoder.width, 3 * self.patch**2)

    def forward(self, images: Tensor, noise: Tensor) -> Tensor:
        """Return the mean squared error over masked patches. `noise` replaces the public code's random numbers."""
        shuffle = noise.argsort(dim=1)
        restore = shuffle.argsort(dim=1)
        kept = shuffle[:, : int(self.tokens * (1 - self.mask_ratio))]
        mask = torch.ones_like(noise)
        mask[:, : kept.shape[1]] = 0
        mask = mask.gather(1, restore)
        x = self.encode_vit(images, kept) if self.own else self.encode_convmae(images, kept, mask)

        x = self.decoder_embed(x)
        missing = self.mask_token.repeat(len(x), self.tokens - kept.shape[1], 1)
        full = torch.cat([x[:, self.own :], missing], dim=1)
        full = full.gather(1, restore.unsqueeze(-1).repeat(1, 1, x.shape[2]))
        x = torch.cat([x[:, : self.own], full], dim=1) + self.decoder_pos_embed
        for block in self.decoder_blocks:
            x = block(x)
        prediction = self.decoder_pred(self.decoder_norm(x))[:, self.own :]

        p, g = self.patch, self.grid
        target = torch.einsum("nchpwq->nhwpqc", images.reshape(len(images), 3, g, p, g, p))
        target = target.reshape(len(images), g * g, 3 * p * p)
        mean, var = target.mean(dim=-1, keepdim=True), target.var(dim=-1, keepdim=True)
        target = (target - mean) / (var + 1e-6) ** 0.5
        error = ((prediction - target) ** 2).mean(dim=-1)
        return (error * mask).sum() / mask.sum()

    def encode_vit(self, images: Tensor, kept: Tensor) -> Tensor:
        """Encode the class token and the visible patches."""
        x = self.get_submodule("patch_embed.proj")(images).flatten(2).transpose(1, 2) + self.pos_embed[:, 1:]
        x = x.gather(1, kept.unsqueeze(-1).repeat(1, 1, x.shape[2]))
        first = (self.cls_token + self.pos_embed[:, :1]).expand(len(x), -1, -1)
        x = torch.cat([first, x], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def encode_convmae(self, images: Tensor, kept: Tensor, mask: Tensor) -> Tensor:
        """Encode the visible patches. Stages 1 and 2 process dense grids that also contain the masked positions."""
        _, p2, p3 = self.patch_sizes
        coarse = 1 - mask.view(-1, 1, self.grid, self.grid)
        x, outputs = images, []
        for stage, scale in ((1, p2 * p3), (2, p3)):
            x = self.get_submodule(f"patch_embed{stage}")(x)
            keep = coarse.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
            for block in self.get_submodule(f"blocks{stage}").children():
                x = block(x, keep)
            outputs.append(self.get_submodule(f"stage{stage}_output_decode")(x).flatten(2).permute(0, 2, 1))
        x = (
            self.get_submodule("patch_embed4")(self.get_submodule("patch_embed3")(x).flatten(2).permute(0, 2, 1))
            + self.pos_embed
        )
        rows = kept.unsqueeze(-1).repeat(1, 1, x.shape[2])
        x, first, second = (part.gather(1, rows) for part in (x, *outputs))
        for block in self.blocks3:
            x = block(x)
        return self.norm(x + first + second)


def reference_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, noise: Tensor, lr: float
) -> float:
    """Run one step of the public training loop on a CPU in float32, including the loss and the gradient norm."""
    for group in optimizer.param_groups:
        group["lr"] = lr
    loss = model(images, noise)
    value = loss.item()
    if not math.isfinite(value):
        raise RuntimeError(f"The loss of the reference is {value}; it must be finite.")
    loss.backward()
    gradients = [p.grad.detach() for p in model.parameters() if p.grad is not None]
    torch.norm(torch.stack([torch.norm(g, 2.0) for g in gradients]), 2.0)
    optimizer.step()
    optimizer.zero_grad()
    return value
