"""Vision transformers (Dosovitskiy et al. 2021): timm's, with MAE's initialisation and pooling."""

from __future__ import annotations

from jaxtyping import Float
from timm.models.vision_transformer import VisionTransformer as TimmViT
from torch import Tensor, nn

from mem import config
from mem.models.backbones.base import HEAD_INIT_STD, Classifier, use_sample_drop_paths
from mem.models.transformer import init_linear


class VitClassifier(Classifier):
    """A ViT, the mean of its patch tokens, a norm and a linear classifier: MAE's finetuning model."""

    head_prefix = "head."
    # The encoder's norm comes before pooling, the classifier's after it.
    encoder_fresh = ("fc_norm.",)
    encoder_unused = ("norm.",)
    backbone: TimmViT

    def __init__(self, settings: config.VisionTransformer, classes: int, drop_path: float = 0.0) -> None:
        super().__init__(vision_transformer(settings, classes=classes, pool="avg", drop_path=drop_path))
        nn.init.trunc_normal_(self.linear.weight, std=HEAD_INIT_STD)
        nn.init.zeros_(self.linear.bias)
        self.width, self.tokens, self.layers = settings.width, settings.tokens, settings.depth + 1

    @property
    def linear(self) -> nn.Linear:
        """The classifier proper."""
        head = self.backbone.head
        assert isinstance(head, nn.Linear)
        return head

    def features(
        self, images: Float[Tensor, "samples 3 rows columns"]
    ) -> tuple[Float[Tensor, "samples width"], Float[Tensor, "samples tokens width"]]:
        """What the classifier sees, and the patch tokens, both after the norm (tokens: each by itself)."""
        tokens = self.backbone.forward_features(images)
        pooled = self.backbone.forward_head(tokens, pre_logits=True)
        return pooled, self.backbone.fc_norm(tokens[:, self.backbone.num_prefix_tokens :])

    def layer_of(self, parameter: str) -> int:
        """Embeddings are 0, block i is i + 1, the rest the last (facebookresearch/mae, util/lr_decay.py)."""
        if parameter.startswith(("cls_token", "pos_embed", "patch_embed.")):
            return 0
        return int(parameter.split(".")[1]) + 1 if parameter.startswith("blocks.") else self.layers

    def undecayed(self, parameter: str) -> bool:
        """Class token and positions."""
        return parameter in self.backbone.no_weight_decay()


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
    use_sample_drop_paths(model)
    return model
