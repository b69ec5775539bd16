"""What all masked autoencoders share: which patches are visible, the light decoder, and the error on the masked ones.

Key names are those of facebookresearch/mae, models_mae.py, and of Alpha-VL/ConvMAE, models_convmae.py, with the
encoder's under `encoder.`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float, Int64
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from mem import config
from mem.models.transformer import fixed_positions, init_linear, layer_norm


class Autoencoder(nn.Module, ABC):
    """Encodes the visible patches, and predicts the pixels of the masked ones (He et al. 2022).

    A subclass says how to `encode`, and initialises in the order that its seeds are used to.
    """

    def __init__(
        self,
        encoder: nn.Module,
        backbone: config.VisionTransformer | config.ConvMae,
        decoder: config.Decoder,
        mask_ratio: float,
        norm_pix_loss: bool,
        class_tokens: int,
    ) -> None:
        super().__init__()
        self.patch = backbone.patch_size
        self.grid = backbone.image_size // backbone.patch_size
        self.visible = int(backbone.tokens * (1 - mask_ratio))
        self.norm_pix_loss = norm_pix_loss
        self.class_tokens = class_tokens
        self.encoder = encoder
        self.decoder_embed = nn.Linear(backbone.width, decoder.width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder.width))
        self.decoder_pos_embed = fixed_positions(self.grid, decoder.width, class_tokens)
        self.decoder_blocks = nn.Sequential(
            *[
                Block(decoder.width, decoder.heads, qkv_bias=True, norm_layer=layer_norm)  # type: ignore[arg-type]
                for _ in range(decoder.depth)
            ]
        )
        self.decoder_norm = layer_norm(decoder.width)
        self.decoder_pred = nn.Linear(decoder.width, self.patch**2 * 3)

    def initialise_decoder(self) -> None:
        """Xavier's uniform weights, and a mask token of small normal numbers."""
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

    @abstractmethod
    def encode(
        self, images: Float[Tensor, "samples 3 rows columns"], visible: Int64[Tensor, "samples visible"]
    ) -> Float[Tensor, "samples visible_and_class width"]:
        """Latent of the class token, where there is one, and of the visible patches."""

    def decode(
        self,
        latent: Float[Tensor, "samples visible_and_class width"],
        visible: Int64[Tensor, "samples visible"],
    ) -> Float[Tensor, "samples tokens pixels"]:
        """Predicted pixels of every patch, with mask tokens where nothing was visible."""
        embedded = self.decoder_embed(latent)
        width, own = embedded.shape[2], self.class_tokens
        tokens = self.mask_token.to(embedded.dtype).expand(len(latent), self.grid**2, -1)
        tokens = tokens.scatter(1, visible[:, :, None].expand(-1, -1, width), embedded[:, own:])
        if own:
            tokens = torch.cat([embedded[:, :own], tokens], dim=1)
        tokens = tokens + self.decoder_pos_embed
        return self.decoder_pred(self.decoder_norm(self.decoder_blocks(tokens)))[:, own:]

    def target(self, images: Float[Tensor, "samples 3 rows columns"]) -> Float[Tensor, "samples tokens pixels"]:
        """The pixels of each patch, row by row with channels last, normalised per patch by setting."""
        patches = self.patches(images)
        if self.norm_pix_loss:
            mean, scale = statistics(patches)
            patches = (patches - mean) / scale
        return patches

    def patches(self, images: Float[Tensor, "samples 3 rows columns"]) -> Float[Tensor, "samples tokens pixels"]:
        """The pixels of each patch, row by row with channels last."""
        samples, p, g = len(images), self.patch, self.grid
        return images.view(samples, 3, g, p, g, p).permute(0, 2, 4, 3, 5, 1).reshape(samples, g * g, p * p * 3)

    def images(self, patches: Float[Tensor, "samples tokens pixels"]) -> Float[Tensor, "samples 3 rows columns"]:
        """The inverse of `patches`."""
        samples, p, g = len(patches), self.patch, self.grid
        return patches.view(samples, g, g, p, p, 3).permute(0, 5, 1, 3, 2, 4).reshape(samples, 3, g * p, g * p)


def statistics(
    patches: Float[Tensor, "samples tokens pixels"],
) -> tuple[Float[Tensor, "samples tokens 1"], Float[Tensor, "samples tokens 1"]]:
    """Mean of each patch's pixels, and what they are divided by to have variance one."""
    variance, mean = torch.var_mean(patches, dim=2, keepdim=True)
    return mean, (variance + 1e-6).sqrt()
