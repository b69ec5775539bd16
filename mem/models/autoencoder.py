"""Base class for masked autoencoders, with a lightweight decoder and a loss on the masked patches.

Parameter names follow facebookresearch/mae (models_mae.py) and Alpha-VL/ConvMAE (models_convmae.py). Encoder parameters
have the additional prefix `encoder.`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import partial

import torch
from jaxtyping import Float, Int64
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from mem import config
from mem.models.block_outputs import block_outputs
from mem.models.recompute import Recomputing, run_blocks
from mem.models.rows import select_tokens
from mem.models.transformer import fixed_positions, init_linear, layer_norm


class Autoencoder(nn.Module, Recomputing, ABC):
    """Encodes the visible patches and predicts the pixels of the masked patches (He et al. 2022).

    Subclasses implement `encode` and call `initialise_decoder` in `__init__`. Moving this call changes the initial
    weights for a given seed, because the decoder then receives different random numbers.
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
        self.patch_size = backbone.patch_size
        self.grid = backbone.image_size // backbone.patch_size
        self.visible_patches = int(backbone.tokens * (1 - mask_ratio))
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
        self.decoder_pred = nn.Linear(decoder.width, self.patch_size**2 * 3)

    def initialise_decoder(self) -> None:
        """Initialise the mask token from a normal distribution and the linear layers with Xavier uniform weights."""
        nn.init.normal_(self.mask_token, std=0.02)
        for module in (self.decoder_embed, self.decoder_blocks, self.decoder_pred):
            module.apply(init_linear)

    def forward(
        self, images: Float[Tensor, "samples 3 rows columns"], noise: Float[Tensor, "samples tokens"]
    ) -> Float[Tensor, " samples"]:
        """Return the mean squared error over the masked patches of each image.

        Args:
            images: Normalised images.
            noise: One random number per patch. The patches with the smallest numbers stay visible.
        """
        visible, masked = self.split_positions(noise)
        prediction = self.decode(self.encode(images, visible), visible, masked)
        error = (prediction - select_tokens(self.target(images), masked)) ** 2
        return error.mean(dim=(1, 2))

    def reconstruct(
        self, images: Float[Tensor, "samples 3 rows columns"], noise: Float[Tensor, "samples tokens"]
    ) -> tuple[Float[Tensor, "samples tokens pixels"], Int64[Tensor, "samples visible"]]:
        """Return the predicted pixels of every patch and the indices of the visible patches."""
        visible, _ = self.split_positions(noise)
        return self.decode(self.encode(images, visible), visible), visible

    def split_positions(
        self, noise: Float[Tensor, "samples tokens"]
    ) -> tuple[Int64[Tensor, "samples visible"], Int64[Tensor, "samples masked"]]:
        """Return the positions of the visible and of the masked patches."""
        order = noise.argsort(dim=1)
        return order[:, : self.visible_patches], order[:, self.visible_patches :]

    @abstractmethod
    def encode(
        self, images: Float[Tensor, "samples 3 rows columns"], visible: Int64[Tensor, "samples visible"]
    ) -> Float[Tensor, "samples visible_and_class width"]:
        """Return the latents of the class token, if there is one, and of the visible patches."""

    def decode(
        self,
        latent: Float[Tensor, "samples visible_and_class width"],
        visible: Int64[Tensor, "samples visible"],
        predicted: Int64[Tensor, "samples predicted"] | None = None,
    ) -> Float[Tensor, "samples predicted pixels"]:
        """Return the predicted pixels of the patches `predicted`, or of every patch if it is None.

        Masked patches enter the decoder as mask tokens.
        """
        embedded = self.decoder_embed(latent)
        width, prefix = embedded.shape[2], self.class_tokens
        tokens = self.mask_token.to(embedded.dtype).expand(len(latent), self.grid**2, -1)
        tokens = tokens.scatter(1, visible[:, :, None].expand(-1, -1, width), embedded[:, prefix:])
        if prefix:
            tokens = torch.cat([embedded[:, :prefix], tokens], dim=1)
        tokens = tokens + self.decoder_pos_embed
        if predicted is None:
            decoded = run_blocks(self.decoder_blocks, tokens, recompute=self.recompute)[:, prefix:]
        else:
            *blocks, last = self.decoder_blocks
            tokens = run_blocks(blocks, tokens, recompute=self.recompute)
            decoded = run_blocks([partial(block_outputs, last)], tokens, predicted + prefix, recompute=self.recompute)
        return self.decoder_pred(self.decoder_norm(decoded))

    def target(self, images: Float[Tensor, "samples 3 rows columns"]) -> Float[Tensor, "samples tokens pixels"]:
        """Return the reconstruction target: the output of `patches`, normalised per patch if `norm_pix_loss` is set."""
        patches = self.patches(images)
        if self.norm_pix_loss:
            mean, scale = patch_statistics(patches)
            patches = (patches - mean) / scale
        return patches

    def patches(self, images: Float[Tensor, "samples 3 rows columns"]) -> Float[Tensor, "samples tokens pixels"]:
        """Return the pixels of each patch, row by row, channels last."""
        samples, p, g = len(images), self.patch_size, self.grid
        return images.view(samples, 3, g, p, g, p).permute(0, 2, 4, 3, 5, 1).reshape(samples, g * g, p * p * 3)

    def images(self, patches: Float[Tensor, "samples tokens pixels"]) -> Float[Tensor, "samples 3 rows columns"]:
        """Reassemble images from their patches. This is the inverse of `patches`."""
        samples, p, g = len(patches), self.patch_size, self.grid
        return patches.view(samples, g, g, p, p, 3).permute(0, 5, 1, 3, 2, 4).reshape(samples, 3, g * p, g * p)


def patch_statistics(
    patches: Float[Tensor, "samples tokens pixels"],
) -> tuple[Float[Tensor, "samples tokens 1"], Float[Tensor, "samples tokens 1"]]:
    """Return the mean of each patch's pixels, and the divisor that scales the pixels to unit variance."""
    variance, mean = torch.var_mean(patches, dim=2, keepdim=True)
    return mean, (variance + 1e-6).sqrt()
