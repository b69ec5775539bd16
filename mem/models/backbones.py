"""Backbones with a classifier, from timm, behind one interface: pooled feature, patch tokens, logits."""

from __future__ import annotations

import torch
from jaxtyping import Float
from timm.layers.drop import DropPath
from timm.models.vision_transformer import VisionTransformer as TimmViT
from torch import Tensor, nn

from mem import config
from mem.models.drop_path import SampleDropPath, branches, set_draws

HEAD_INIT_STD = 2e-5
"""Standard deviation of a fresh classifier's weights (facebookresearch/mae, main_finetune.py)."""


class Classifier(nn.Module):
    """A backbone, the mean of its patch tokens, a norm and a linear classifier: MAE's finetuning model."""

    def __init__(self, settings: config.VisionTransformer, classes: int, drop_path: float = 0.0) -> None:
        super().__init__()
        self.backbone = vision_transformer(settings, classes=classes, pool="avg", drop_path=drop_path)
        nn.init.trunc_normal_(self.linear.weight, std=HEAD_INIT_STD)
        nn.init.zeros_(self.linear.bias)
        self.branches = len(branches(self.backbone))

    @property
    def linear(self) -> nn.Linear:
        """The classifier proper."""
        head = self.backbone.head
        assert isinstance(head, nn.Linear)
        return head

    def forward(
        self,
        images: Float[Tensor, "samples 3 rows columns"],
        draws: Float[Tensor, "samples branches"] | None = None,
    ) -> Float[Tensor, "samples classes"]:
        """Logits. In training, `draws` decides which branches each sample drops."""
        set_draws(self.backbone, draws)
        return self.linear(self.features(images)[0])

    def features(
        self, images: Float[Tensor, "samples 3 rows columns"]
    ) -> tuple[Float[Tensor, "samples width"], Float[Tensor, "samples tokens width"]]:
        """What the classifier sees, and the patch tokens, both after the norm (tokens: each by itself)."""
        tokens = self.backbone.forward_features(images)
        pooled = self.backbone.forward_head(tokens, pre_logits=True)
        return pooled, self.backbone.fc_norm(tokens[:, self.backbone.num_prefix_tokens :])


def vision_transformer(
    settings: config.VisionTransformer, *, classes: int, pool: str, drop_path: float = 0.0
) -> TimmViT:
    """Timm's ViT with MAE's initialisation and, in place of timm's, `SampleDropPath`.

    Args:
        settings: The architecture.
        classes: Size of the linear classifier; 0 for none.
        pool: `token` has a norm after the last block (MAE's encoder), `avg` one after pooling (MAE's finetuning).
        drop_path: Rate of the last block, rising linearly from 0.
    """
    model = TimmViT(
        img_size=settings.image_size,
        patch_size=settings.patch_size,
        embed_dim=settings.width,
        depth=settings.depth,
        num_heads=settings.heads,
        num_classes=classes,
        global_pool=pool,  # type: ignore[arg-type]
        drop_path_rate=drop_path,
        weight_init="skip",
    )
    assert model.pos_embed is not None and model.cls_token is not None
    nn.init.trunc_normal_(model.pos_embed, std=0.02)
    nn.init.trunc_normal_(model.cls_token, std=0.02)
    model.apply(init_linear)
    projection = model.patch_embed.proj.weight
    nn.init.xavier_uniform_(projection.data.view(projection.shape[0], -1))
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, DropPath):
                setattr(parent, name, SampleDropPath(child.drop_prob))
    return model


def init_linear(module: nn.Module) -> None:
    """Xavier's uniform weights and zero biases (facebookresearch/mae, models_mae.py)."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def seeded(seed: int) -> None:
    """Seed the initialisation of the models that are built next."""
    torch.manual_seed(seed)
