"""Masked autoencoder (He et al. 2022) around timm's ViT.

Key names are those of facebookresearch/mae, models_mae.py, with the encoder's under `encoder.`.
"""

from __future__ import annotations

from functools import partial

import torch
from jaxtyping import Float, Int64
from timm.layers.pos_embed_sincos import build_sincos2d_pos_embed
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from mem import config
from mem.models.backbones import init_linear, vision_transformer

_layer_norm = partial(nn.LayerNorm, eps=1e-6)


class MaskedAutoencoder(nn.Module):
    """Encodes the visible patches, and predicts the pixels of the masked ones."""

    def __init__(
        self,
        backbone: config.VisionTransformer,
        decoder: config.Decoder,
        mask_ratio: float,
        norm_pix_loss: bool,
    ) -> None:
        super().__init__()
        self.patch = backbone.patch_size
        self.grid = backbone.image_size // backbone.patch_size
        self.visible = int(backbone.tokens * (1 - mask_ratio))
        self.norm_pix_loss = norm_pix_loss

        self.encoder = vision_transformer(backbone, classes=0, pool="token")
        assert self.encoder.pos_embed is not None
        self.encoder.pos_embed = fixed_positions(self.grid, backbone.width)

        self.decoder_embed = nn.Linear(backbone.width, decoder.width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder.width))
        self.decoder_pos_embed = fixed_positions(self.grid, decoder.width)
        self.decoder_blocks = nn.Sequential(
            *[
                Block(decoder.width, decoder.heads, qkv_bias=True, norm_layer=_layer_norm)  # type: ignore[arg-type]
                for _ in range(decoder.depth)
            ]
        )
        self.decoder_norm = _layer_norm(decoder.width)
        self.decoder_pred = nn.Linear(decoder.width, self.patch**2 * 3)

        nn.init.normal_(self.encoder.cls_token, std=0.02)  # type: ignore[arg-type]
        nn.init.normal_(self.mask_token, std=0.02)
        for module in (self.decoder_embed, self.decoder_blocks, self.decoder_pred):
            module.apply(init_linear)

    def forward(
        self, images: Float[Tensor, "samples 3 rows columns"], noise: Float[Tensor, "samples tokens"]
    ) -> Float[Tensor, " samples"]:
        """Mean squared error over the masked patches of each image.

        Args:
            images: Normalised images.
            noise: One number a patch; the patches with the smallest numbers stay visible.
        """
        prediction, visible = self.reconstruct(images, noise)
        target = self.target(images)
        error = ((prediction - target) ** 2).mean(dim=2)
        masked = torch.ones_like(error).scatter(1, visible, 0.0)
        return (error * masked).sum(dim=1) / masked.sum(dim=1)

    def reconstruct(
        self, images: Float[Tensor, "samples 3 rows columns"], noise: Float[Tensor, "samples tokens"]
    ) -> tuple[Float[Tensor, "samples tokens pixels"], Int64[Tensor, "samples visible"]]:
        """Predicted pixels of every patch, and which patches were visible."""
        visible = noise.argsort(dim=1)[:, : self.visible]
        latent = self.encode(images, visible)
        return self.decode(latent, visible), visible

    def encode(
        self, images: Float[Tensor, "samples 3 rows columns"], visible: Int64[Tensor, "samples visible"]
    ) -> Float[Tensor, "samples visible_and_class width"]:
        """Latent of the class token and the visible patches."""
        positions = self.encoder.pos_embed
        assert positions is not None and self.encoder.cls_token is not None
        patches = self.encoder.patch_embed(images) + positions[:, 1:]
        kept = patches.gather(1, visible[:, :, None].expand(-1, -1, patches.shape[2]))
        class_token = (self.encoder.cls_token + positions[:, :1]).expand(len(images), -1, -1)
        return self.encoder.norm(self.encoder.blocks(torch.cat([class_token, kept], dim=1)))

    def decode(
        self,
        latent: Float[Tensor, "samples visible_and_class width"],
        visible: Int64[Tensor, "samples visible"],
    ) -> Float[Tensor, "samples tokens pixels"]:
        """Predicted pixels of every patch, with mask tokens where nothing was visible."""
        embedded = self.decoder_embed(latent)
        width = embedded.shape[2]
        grid = self.mask_token.to(embedded.dtype).expand(len(latent), self.grid**2, -1)
        grid = grid.scatter(1, visible[:, :, None].expand(-1, -1, width), embedded[:, 1:])
        tokens = torch.cat([embedded[:, :1], grid], dim=1) + self.decoder_pos_embed
        return self.decoder_pred(self.decoder_norm(self.decoder_blocks(tokens)))[:, 1:]

    def target(self, images: Float[Tensor, "samples 3 rows columns"]) -> Float[Tensor, "samples tokens pixels"]:
        """The pixels of each patch, row by row with channels last, normalised per patch by setting."""
        samples, p, g = len(images), self.patch, self.grid
        patches = images.view(samples, 3, g, p, g, p).permute(0, 2, 4, 3, 5, 1).reshape(samples, g * g, p * p * 3)
        if self.norm_pix_loss:
            variance, mean = torch.var_mean(patches, dim=2, keepdim=True)
            patches = (patches - mean) / (variance + 1e-6).sqrt()
        return patches


def fixed_positions(grid: int, width: int) -> nn.Parameter:
    """Sine-cosine positions of a square grid after a zero for the class token; not trained.

    The first half of the channels codes the column, as in facebookresearch/mae, util/pos_embed.py.
    """
    table = build_sincos2d_pos_embed([grid, grid], dim=width, interleave_sin_cos=True)
    rows, columns = table.chunk(2, dim=1)
    table = torch.cat([columns, rows], dim=1)
    return nn.Parameter(torch.cat([torch.zeros(1, width), table])[None], requires_grad=False)
