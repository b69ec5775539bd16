"""Masked autoencoders: MAE (He et al. 2022) based on timm's ViT, and ConvMAE (Gao et al. 2022)."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from mem import config
from mem.errors import UserError
from mem.models.autoencoder import Autoencoder
from mem.models.backbones import vision_transformer
from mem.models.convmae_encoder import ConvMaeEncoder, conv_as_matrix
from mem.models.recompute import run_blocks
from mem.models.rows import select_tokens
from mem.models.transformer import fixed_positions


class MaskedAutoencoder(Autoencoder):
    """MAE: a ViT encodes the visible patches and a class token."""

    def __init__(
        self,
        backbone: config.VisionTransformer,
        decoder: config.Decoder,
        mask_ratio: float,
        norm_pix_loss: bool,
    ) -> None:
        encoder = vision_transformer(backbone, classes=0, pool="token")
        super().__init__(encoder, backbone, decoder, mask_ratio, norm_pix_loss, class_tokens=1)
        self.encoder = encoder
        encoder.pos_embed = fixed_positions(self.grid, backbone.width, class_tokens=1)
        nn.init.normal_(encoder.cls_token, std=0.02)  # type: ignore[arg-type]
        self.initialise_decoder()

    def encode(
        self, images: Float[Tensor, "samples 3 rows columns"], visible: Int64[Tensor, "samples visible"]
    ) -> Float[Tensor, "samples visible_and_class width"]:
        """Return the latents of the class token and of the visible patches."""
        positions = self.encoder.pos_embed
        assert positions is not None and self.encoder.cls_token is not None
        embedding = self.encoder.patch_embed.proj
        pixels = select_tokens(self.patches(images), visible)
        kept = F.linear(pixels, conv_as_matrix(embedding.weight), embedding.bias) + positions[0, 1:][visible]
        class_token = (self.encoder.cls_token + positions[:, :1]).expand(len(images), -1, -1)
        tokens = torch.cat([class_token, kept], dim=1)
        return self.encoder.norm(run_blocks(self.encoder.blocks, tokens, recompute=self.recompute))


class ConvMaskedAutoencoder(Autoencoder):
    """ConvMAE: the mask is sampled on the stage-3 grid, and there is no class token."""

    def __init__(
        self,
        backbone: config.ConvMae,
        decoder: config.Decoder,
        mask_ratio: float,
        norm_pix_loss: bool,
    ) -> None:
        super().__init__(ConvMaeEncoder(backbone), backbone, decoder, mask_ratio, norm_pix_loss, class_tokens=0)
        self.initialise_decoder()

    def encode(
        self, images: Float[Tensor, "samples 3 rows columns"], visible: Int64[Tensor, "samples visible"]
    ) -> Float[Tensor, "samples visible width"]:
        """Return the latents of the visible patches."""
        return self.encoder(images, visible)


def build_autoencoder(backbone: config.Backbone, pretrain: config.Pretrain) -> Autoencoder:
    """Build the masked autoencoder that has this backbone as its encoder.

    Raises:
        UserError: There is no masked autoencoder for this kind of backbone.
    """
    settings = (pretrain.decoder, pretrain.mask_ratio, pretrain.norm_pix_loss)
    match backbone:
        case config.VisionTransformer():
            return MaskedAutoencoder(backbone, *settings)
        case config.ConvMae():
            return ConvMaskedAutoencoder(backbone, *settings)
        case _:
            raise UserError(
                f"{backbone.name}: a backbone of kind {backbone.kind} has no masked autoencoder; set `pretrain: null`"
            )
