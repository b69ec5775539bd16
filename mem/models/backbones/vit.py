"""Vision transformers (Dosovitskiy et al. 2021) from timm, with MAE's initialisation and pooling."""

from __future__ import annotations

from jaxtyping import Float
from timm.models.vision_transformer import VisionTransformer as TimmViT
from torch import Tensor, nn

from mem import config
from mem.models.backbones.base import HEAD_INIT_STD, BackboneClassifier, use_sample_drop_paths
from mem.models.transformer import init_linear


class VitClassifier(BackboneClassifier):
    """MAE's finetuning model: a ViT, the mean of its patch tokens, a norm and a linear layer."""

    head_prefix = "head."
    # The pretrained encoder applies its norm before pooling. This model applies a new norm after pooling.
    missing_in_encoder = ("fc_norm.",)
    unused_from_encoder = ("norm.",)
    backbone: TimmViT

    def __init__(self, settings: config.VisionTransformer, classes: int, drop_path: float = 0.0) -> None:
        super().__init__(vision_transformer(settings, classes=classes, pool="avg", drop_path=drop_path))
        nn.init.trunc_normal_(self.linear.weight, std=HEAD_INIT_STD)
        nn.init.zeros_(self.linear.bias)
        self.width, self.tokens, self.layers = settings.width, settings.tokens, settings.depth + 1

    @property
    def linear(self) -> nn.Linear:
        """The linear layer."""
        head = self.backbone.head
        assert isinstance(head, nn.Linear)
        return head

    def features(
        self, images: Float[Tensor, "samples 3 rows columns"]
    ) -> tuple[Float[Tensor, "samples width"], Float[Tensor, "samples tokens width"]]:
        """Return the patch tokens' mean after `fc_norm` as the pooled feature, and each patch token after `fc_norm`.

        `fc_norm` is the norm that MAE's finetuning model applies after pooling.
        """
        return self.features_of(self.backbone.forward_features(images))

    def features_of(
        self, tokens: Float[Tensor, "samples sequence width"]
    ) -> tuple[Float[Tensor, "samples width"], Float[Tensor, "samples tokens width"]]:
        """Return the features (see `features`) from the outputs of the last block."""
        pooled = self.backbone.forward_head(tokens, pre_logits=True)
        return pooled, self.backbone.fc_norm(tokens[:, self.backbone.num_prefix_tokens :])

    def layer_of(self, parameter: str) -> int:
        """Return 0 for embeddings, i + 1 for block i, and the last layer otherwise.

        Source: facebookresearch/mae, util/lr_decay.py.
        """
        if parameter.startswith(("cls_token", "pos_embed", "patch_embed.")):
            return 0
        return int(parameter.split(".")[1]) + 1 if parameter.startswith("blocks.") else self.layers

    def exempt_from_decay(self, parameter: str) -> bool:
        """Exempt the class token and the position embeddings."""
        return parameter in self.backbone.no_weight_decay()


def vision_transformer(
    settings: config.VisionTransformer, *, classes: int, pool: str, drop_path: float = 0.0
) -> TimmViT:
    """Build timm's ViT with MAE's initialisation and with `SampleDropPath` instead of timm's `DropPath`.

    Args:
        settings: The architecture.
        classes: Number of outputs of the linear layer; 0 for no linear layer.
        pool: `token` applies the norm after the last block (MAE's encoder); `avg` applies it after pooling (MAE's
            finetuning model).
        drop_path: Stochastic-depth rate of the last block. Rates increase linearly from 0 over the blocks.
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
    use_sample_drop_paths(model)
    return model
