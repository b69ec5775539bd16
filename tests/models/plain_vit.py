"""A vision transformer with tuners, computed step by step from the equations of the publications.

It uses no code of mem and timm: only the names of the weights are those of timm. The block is that of Dosovitskiy et
al. (2021, eq. 1 to 4), with the mean of the patch tokens and a norm at the end (He et al. 2022).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor


def norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Return the layer norm of each token."""
    centred = x - x.mean(dim=-1, keepdim=True)
    return centred / (centred.square().mean(dim=-1, keepdim=True) + eps).sqrt() * weight + bias


def gelu(x: Tensor) -> Tensor:
    """Return x times the distribution function of the normal distribution."""
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


class PlainVit:
    """A ViT with the weights `w`, whose names are those of timm.

    Args:
        weights: The weights, also of tuners.
        heads: Attention heads per block.
        patch: Side of a patch in pixels.
        lora_scale: The factor alpha / r of LoRA.
        adapter_scale: Constant factor of AdaptFormer; None if it is trained.
    """

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        heads: int,
        patch: int,
        lora_scale: float = 0.0,
        adapter_scale: float | None = None,
    ) -> None:
        self.w, self.heads, self.patch = weights, heads, patch
        self.lora_scale, self.adapter_scale = lora_scale, adapter_scale
        self.depth = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("blocks."))

    def logits(self, images: Tensor) -> Tensor:
        """Return the logits of images (samples, 3, rows, columns)."""
        x = self.embed(images)
        prompts = 0
        for i in range(self.depth):
            # Jia et al. (2022), eq. 4 and 5: [x, P, E]. The P of deep prompts replace the outputs of the previous P.
            own = self.w.get(f"blocks.{i}.prompts")
            if own is not None:
                x = torch.cat([x[:, :1], own.expand(len(x), *own.shape), x[:, 1 + prompts :]], dim=1)
                prompts = len(own)
            x = self.block(f"blocks.{i}", x)
        patches = x[:, 1 + prompts :].mean(dim=1)
        return self.linear("head", norm(patches, self.w["fc_norm.weight"], self.w["fc_norm.bias"], 1e-6))

    def embed(self, images: Tensor) -> Tensor:
        """Return the class token and the embedded patches, with positions."""
        p, (samples, _, side, _) = self.patch, images.shape
        grid = side // p
        cut = images.reshape(samples, 3, grid, p, grid, p).permute(0, 2, 4, 1, 3, 5).reshape(samples, grid**2, -1)
        tokens = cut @ self.w["patch_embed.proj.weight"].flatten(1).T + self.w["patch_embed.proj.bias"]
        return torch.cat([self.w["cls_token"].expand(samples, 1, -1), tokens], dim=1) + self.w["pos_embed"]

    def block(self, name: str, x: Tensor) -> Tensor:
        """Return the outputs of a block."""
        x = x + self.attention(f"{name}.attn", self.norm(f"{name}.norm1", x, 1e-6))
        hidden = gelu(self.lora(f"{name}.mlp.fc1", "mlp_in", self.norm(f"{name}.norm2", x, 1e-6)))
        out = x + self.lora(f"{name}.mlp.fc2", "mlp_out", hidden)
        if f"{name}.adapter.up.weight" not in self.w:
            return out
        # Chen et al. (2022), eq. 2 and 3, with the layer norm and the trained scale of LIFT.
        down = self.linear(f"{name}.adapter.down", self.norm(f"{name}.adapter.norm", x, 1e-5)).clamp(min=0)
        scale = self.w[f"{name}.adapter.scale"] if self.adapter_scale is None else self.adapter_scale
        return out + scale * self.linear(f"{name}.adapter.up", down)

    def attention(self, name: str, x: Tensor) -> Tensor:
        """Return the attention's output. LoRA updates queries, keys and values separately."""
        samples, tokens, width = x.shape
        parts = []
        for i, part in enumerate(("query", "key", "value")):
            rows = slice(i * width, (i + 1) * width)
            y = x @ self.w[f"{name}.qkv.weight"][rows].T + self.w[f"{name}.qkv.bias"][rows]
            y = y + self.update(f"{name}.qkv.lora.{part}", x)
            parts.append(y.reshape(samples, tokens, self.heads, -1).transpose(1, 2))
        query, key, value = parts
        scores = query @ key.transpose(2, 3) / math.sqrt(width // self.heads)
        shares = (scores - scores.amax(dim=3, keepdim=True)).exp()
        mixed = (shares / shares.sum(dim=3, keepdim=True) @ value).transpose(1, 2).reshape(samples, tokens, width)
        return self.lora(f"{name}.proj", "projection", mixed)

    def lora(self, name: str, layer: str, x: Tensor) -> Tensor:
        """Return the output of a linear layer with its update."""
        return self.linear(name, x) + self.update(f"{name}.lora.{layer}", x)

    def update(self, name: str, x: Tensor) -> Tensor | float:
        """Return alpha / r B A x (Hu et al. 2022, eq. 3), or 0 if the layer has no update."""
        if f"{name}.down" not in self.w:
            return 0.0
        return self.lora_scale * (x @ self.w[f"{name}.down"].T @ self.w[f"{name}.up"].T)

    def linear(self, name: str, x: Tensor) -> Tensor:
        """Return the output of a linear layer without an update."""
        return x @ self.w[f"{name}.weight"].T + self.w[f"{name}.bias"]

    def norm(self, name: str, x: Tensor, eps: float) -> Tensor:
        """Return the output of a layer norm."""
        return norm(x, self.w[f"{name}.weight"], self.w[f"{name}.bias"], eps)
