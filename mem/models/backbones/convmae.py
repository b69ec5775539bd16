"""ConvMAE's finetuning model: the three stages at every position, the mean of the tokens, a norm, a classifier."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from mem import config
from mem.models.backbones.base import HEAD_INIT_STD, Classifier
from mem.models.convmae import ConvMaeStages
from mem.models.transformer import layer_norm


class ConvMaeNetwork(ConvMaeStages):
    """The stages with positions that are trained, a norm and a classifier (Alpha-VL/ConvMAE, models_convvit.py)."""

    def __init__(self, settings: config.ConvMae, classes: int, drop_path: float) -> None:
        super().__init__(settings, drop_path)
        self.pos_embed.requires_grad_(True)
        self.fc_norm = layer_norm(settings.width)
        self.head = nn.Linear(settings.width, classes)


class ConvMaeClassifier(Classifier):
    """ConvMAE's encoder, the mean of its tokens, a norm and a linear classifier.

    The strided convolutions that bring stages 1 and 2 to the decoder have no part in finetuning, as in the official
    code.
    """

    head_prefix = "head."
    # The encoder's norm comes before pooling, the classifier's after it.
    encoder_fresh = ("fc_norm.",)
    encoder_unused = ("norm.", "stage1_output_decode.", "stage2_output_decode.")
    backbone: ConvMaeNetwork

    def __init__(self, settings: config.ConvMae, classes: int, drop_path: float = 0.0) -> None:
        super().__init__(ConvMaeNetwork(settings, classes, drop_path))
        nn.init.trunc_normal_(self.linear.weight, std=HEAD_INIT_STD)
        nn.init.zeros_(self.linear.bias)
        self.width, self.tokens, self.layers = settings.width, settings.tokens, settings.depths[2] + 1

    @property
    def linear(self) -> nn.Linear:
        """The classifier proper."""
        return self.backbone.head

    def features(
        self, images: Float[Tensor, "samples 3 rows columns"]
    ) -> tuple[Float[Tensor, "samples width"], Float[Tensor, "samples tokens width"]]:
        """What the classifier sees, and the tokens, both after the norm (tokens: each by itself)."""
        tokens = self.backbone.stages(images)[2]
        return self.backbone.fc_norm(tokens.mean(dim=1)), self.backbone.fc_norm(tokens)

    def layer_of(self, parameter: str) -> int:
        """Embeddings and stages 1 and 2 are 0, block i of stage 3 is i + 1 (Alpha-VL/ConvMAE, util/lr_decay.py)."""
        if parameter.startswith(("pos_embed", "patch_embed", "blocks1.", "blocks2.")):
            return 0
        return int(parameter.split(".")[1]) + 1 if parameter.startswith("blocks3.") else self.layers

    def undecayed(self, parameter: str) -> bool:
        """Positions."""
        return parameter == "pos_embed"
