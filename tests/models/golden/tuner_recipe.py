"""Network, tuners and inputs from which official tuners are recorded."""

from __future__ import annotations

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from tests.models.golden import recipe

SIDE, WIDTH, RANK, PROMPTS = 16, 12, 4, 3
OFFICIAL = {"adaptformer": "adaptformer", "lora": "lora", "vpt_shallow": "vpt_shallow", "vpt_deep": "vpt_deep"}
"""The recorded tuners, and the option of LIFT that selects each of them."""


def network() -> VisionTransformer:
    """Return a ViT in float64 with two blocks, weights that depend on their names, and no classifier."""
    model = VisionTransformer(
        img_size=SIDE, patch_size=8, embed_dim=WIDTH, depth=2, num_heads=3, num_classes=0, weight_init="skip"
    )
    recipe.fill(model.named_parameters())
    return model.double().eval()


def images() -> Tensor:
    """Return the inputs of the network."""
    return torch.from_numpy(recipe.normal("tuner images", (2, 3, SIDE, SIDE))).double()


def probe() -> Tensor:
    """Return the factors of the features in the recorded sum, whose gradients are recorded."""
    return torch.from_numpy(recipe.normal("tuner probe", (2, WIDTH))).double()
