"""ConvMAE backbone: the three stages applied at every position, mean pooling of the tokens, and a norm."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from mem import config
from mem.models.backbones.base import HEAD_INIT_STD, BackboneClassifier
from mem.models.convmae_encoder import ConvMaeStages
from mem.models.transformer import layer_norm


class ConvMaeNetwork(ConvMaeStages):
    """The stages, trainable position embeddings, a norm and a linear layer (Alpha-VL/ConvMAE, models_convvit.py)."""

    def __init__(self, settings: config.ConvMae, classes: int, drop_path: float) -> None:
        super().__init__(settings, drop_path)
        self.pos_embed.requires_grad_(True)
        self.fc_norm = layer_norm(settings.width)
        self.head = nn.Linear(settings.width, classes)


class ConvMaeClassifier(BackboneClassifier):
    """ConvMAE's finetuning model: the three stages, the mean of the tokens, a norm and a linear layer.

    As in the official code, the strided convolutions that project the outputs of stages 1 and 2 in pretraining are not
    used.
    """

    head_prefix = "head."
    # The pretrained encoder applies its norm before pooling. This model applies a new norm after pooling.
    missing_in_encoder = ("fc_norm.",)
    unused_from_encoder = ("norm.", "stage1_output_decode.", "stage2_output_decode.")
    backbone: ConvMaeNetwork

    def __init__(self, settings: config.ConvMae, classes: int, drop_path: float = 0.0) -> None:
        super().__init__(ConvMaeNetwork(settings, classes, drop_path))
        nn.init.trunc_normal_(self.linear.weight, std=HEAD_INIT_STD)
        nn.init.zeros_(self.linear.bias)
        self.width, self.tokens, self.layers = settings.width, settings.tokens, settings.depths[2] + 1

    @property
    def linear(self) -> nn.Linear:
        """The linear layer."""
        return self.backbone.head

    def features(
        self, images: Float[Tensor, "samples 3 rows columns"]
    ) -> tuple[Float[Tensor, "samples width"], Float[Tensor, "samples tokens width"]]:
        """Return the tokens' mean after `fc_norm` as the pooled feature, and each token after `fc_norm`."""
        return self.features_of(self.backbone.stages(images)[2])

    def features_of(
        self, tokens: Float[Tensor, "samples tokens width"]
    ) -> tuple[Float[Tensor, "samples width"], Float[Tensor, "samples tokens width"]]:
        """Return the features (see `features`) from the outputs of the last block."""
        return self.backbone.fc_norm(tokens.mean(dim=1)), self.backbone.fc_norm(tokens)

    def layer_of(self, parameter: str) -> int:
        """Return 0 for embeddings and stages 1 and 2, i + 1 for block i of stage 3, and the last layer otherwise.

        Source: Alpha-VL/ConvMAE, util/lr_decay.py.
        """
        if parameter.startswith(("pos_embed", "patch_embed", "blocks1.", "blocks2.")):
            return 0
        return int(parameter.split(".")[1]) + 1 if parameter.startswith("blocks3.") else self.layers

    def exempt_from_decay(self, parameter: str) -> bool:
        """Exempt the position embeddings."""
        return parameter == "pos_embed"
