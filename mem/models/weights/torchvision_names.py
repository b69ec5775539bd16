"""Names in torchvision's files of the networks whose names timm does not convert: ViT, Swin and ConvNeXt.

The names of torchvision are those of pytorch/vision (torchvision/models/vision_transformer.py, swin_transformer.py and
convnext.py). Files of torchvision's ResNet, DenseNet, VGG and RegNet have the names of timm or are converted by timm.
The layers of EfficientNet, MobileNetV2 and MNASNet have the same order as in timm (see `mem.models.weights.order`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from mem.models.weights.network_names import NetworkNames

_VIT = (
    (r"class_token", "cls_token"),
    (r"encoder\.pos_embedding", "pos_embed"),
    (r"conv_proj\.(.+)", r"patch_embed.proj.\1"),
    (r"encoder\.layers\.encoder_layer_(\d+)\.ln_([12])\.(.+)", r"blocks.\1.norm\2.\3"),
    (r"encoder\.layers\.encoder_layer_(\d+)\.self_attention\.in_proj_(.+)", r"blocks.\1.attn.qkv.\2"),
    (r"encoder\.layers\.encoder_layer_(\d+)\.self_attention\.out_proj\.(.+)", r"blocks.\1.attn.proj.\2"),
    (r"encoder\.layers\.encoder_layer_(\d+)\.mlp\.(?:0|linear_1)\.(.+)", r"blocks.\1.mlp.fc1.\2"),
    (r"encoder\.layers\.encoder_layer_(\d+)\.mlp\.(?:3|linear_2)\.(.+)", r"blocks.\1.mlp.fc2.\2"),
    (r"encoder\.ln\.(.+)", r"norm.\1"),
    (r"heads\.head\.(.+)", r"head.\1"),
)
_SWIN = (
    (r"features\.0\.0\.(.+)", r"patch_embed.proj.\1"),
    (r"features\.0\.2\.(.+)", r"patch_embed.norm.\1"),
    (r"features\.([1357])\.(\d+)\.mlp\.0\.(.+)", r"layers.{stage}.blocks.\2.mlp.fc1.\3"),
    (r"features\.([1357])\.(\d+)\.mlp\.3\.(.+)", r"layers.{stage}.blocks.\2.mlp.fc2.\3"),
    (r"features\.([1357])\.(\d+)\.((?:norm[12]|attn)\..+)", r"layers.{stage}.blocks.\2.\3"),
    (r"features\.([246])\.((?:norm|reduction)\..+)", r"layers.{stage}.downsample.\2"),
    (r"(norm\..+)", r"\1"),
    (r"head\.(.+)", r"head.fc.\1"),
)
_CONVNEXT = (
    (r"features\.0\.([01])\.(.+)", r"stem.\1.\2"),
    (r"features\.([1357])\.(\d+)\.layer_scale", r"stages.{stage}.blocks.\2.gamma"),
    (r"features\.([1357])\.(\d+)\.block\.0\.(.+)", r"stages.{stage}.blocks.\2.conv_dw.\3"),
    (r"features\.([1357])\.(\d+)\.block\.2\.(.+)", r"stages.{stage}.blocks.\2.norm.\3"),
    (r"features\.([1357])\.(\d+)\.block\.3\.(.+)", r"stages.{stage}.blocks.\2.mlp.fc1.\3"),
    (r"features\.([1357])\.(\d+)\.block\.5\.(.+)", r"stages.{stage}.blocks.\2.mlp.fc2.\3"),
    (r"features\.([246])\.([01])\.(.+)", r"stages.{stage}.downsample.\2.\3"),
    (r"classifier\.0\.(.+)", r"head.norm.\1"),
    (r"classifier\.2\.(.+)", r"head.fc.\1"),
)
_NETWORKS = {
    "encoder.layers.encoder_layer_0.ln_1.weight": _VIT,
    "features.1.0.attn.qkv.weight": _SWIN,
    "features.1.0.layer_scale": _CONVNEXT,
}
"""A name that only files of one kind of network contain, and the rules for all names: pattern and name in timm."""


def torchvision_names(tensors: Mapping[str, Tensor], network: NetworkNames) -> dict[str, Tensor] | None:
    """Return the tensors of a file of torchvision by timm's names, or None if the file is not one of these networks.

    Names for which there is no rule, such as tables of indices, are left out. A tensor with additional dimensions of
    size 1 gets the shape that the network expects.
    """
    rules = next((rules for name, rules in _NETWORKS.items() if name in tensors), None)
    if rules is None:
        return None
    renamed: dict[str, Tensor] = {}
    for name, value in tensors.items():
        target = _renamed(name, rules)
        if target is None or not value.is_floating_point():
            continue
        expected = network.tensors.get(target)
        if expected is not None and value.ndim > expected.ndim and value.squeeze().shape == expected.shape:
            value = value.squeeze()
        renamed[target] = value
    return renamed


def _renamed(name: str, rules: tuple[tuple[str, str], ...]) -> str | None:
    for pattern, replacement in rules:
        match = re.fullmatch(pattern, name)
        if match:
            # torchvision numbers stages and the layers between them together: 1, 3, 5, 7 and 2, 4, 6.
            stage = int(match[1]) // 2 if "{stage}" in replacement else 0
            return match.expand(replacement.replace("{stage}", str(stage)))
    return None
