"""Settings for initial weights, and the table of official weights."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import field_validator, model_validator

from mem.config.base import Section, Unkeyed


@dataclass(frozen=True)
class OfficialWeights:
    """A checkpoint published by the authors of a model."""

    about: str
    address: str
    checksum: str | None
    """Checksum as `algorithm:prefix of the digest`, with the published digits; None if no checksum is published."""
    source: str
    """Source of the address and the checksum."""
    backbone: Mapping[str, Any] = field(default_factory=dict)
    """Backbone settings that the weights require."""

    @property
    def file(self) -> str:
        """File name in the folder for downloaded weights."""
        return self.address.rsplit("/", 1)[1] if not self.address.startswith(_DRIVE) else self._drive_file_name

    @property
    def _drive_file_name(self) -> str:
        return f"drive-{self.address.split('id=')[1].split('&')[0]}.pth"


_MAE = "https://dl.fbaipublicfiles.com/mae"
_MAE_README = "facebookresearch/mae, README.md and FINETUNE.md (md5, first six digits)"
_TORCH = "https://download.pytorch.org/models"
_NAMED = "the file's name (SHA-256, first eight digits)"
_TIMM = "https://github.com/huggingface/pytorch-image-models/releases/download/v0.1-rsb-weights"
_DRIVE = "https://drive.usercontent.google.com/download?"
_CONVMAE_README = "Alpha-VL/ConvMAE, README.md, which gives no checksum"
_VIT_B = {"kind": "vit", "patch_size": 16, "width": 768, "depth": 12, "heads": 12}
_VIT_L = {"kind": "vit", "patch_size": 16, "width": 1024, "depth": 24, "heads": 16}
_CONVMAE_B = {
    "kind": "convmae", "patch_sizes": (4, 2, 2), "widths": (256, 384, 768), "depths": (2, 2, 11), "heads": 12,
}  # fmt: skip


def _drive(identity: str) -> str:
    return f"{_DRIVE}id={identity}&export=download&confirm=t"


OFFICIAL: Mapping[str, OfficialWeights] = {
    "mae_pretrain_vit_base": OfficialWeights(
        "MAE ViT-B/16, 1600 epochs on ImageNet, encoder only",
        f"{_MAE}/pretrain/mae_pretrain_vit_base.pth", "md5:8cad7c", _MAE_README, _VIT_B,
    ),
    "mae_pretrain_vit_large": OfficialWeights(
        "MAE ViT-L/16, 1600 epochs on ImageNet, encoder only",
        f"{_MAE}/pretrain/mae_pretrain_vit_large.pth", "md5:b8b06e", _MAE_README, _VIT_L,
    ),
    "mae_finetuned_vit_base": OfficialWeights(
        "MAE ViT-B/16, finetuned on full ImageNet (83.664 %)",
        f"{_MAE}/finetune/mae_finetuned_vit_base.pth", "md5:1b25e9", _MAE_README, _VIT_B,
    ),
    "mae_finetuned_vit_large": OfficialWeights(
        "MAE ViT-L/16, finetuned on full ImageNet (85.952 %)",
        f"{_MAE}/finetune/mae_finetuned_vit_large.pth", "md5:51f550", _MAE_README, _VIT_L,
    ),
    "convmae_pretrain_base": OfficialWeights(
        "ConvMAE-B, 1600 epochs on ImageNet",
        _drive("1AEPivXw0A0b_m5EwEi6fg2pOAoDr8C31"), None, _CONVMAE_README, _CONVMAE_B,
    ),
    "convmae_finetuned_base": OfficialWeights(
        "ConvMAE-B, finetuned on full ImageNet (84.982 %)",
        _drive("19F6vQUlITpzNLvXLKi5NRxRLOmKRxqFi"), None, _CONVMAE_README, _CONVMAE_B,
    ),
    "resnet152_imagenet": OfficialWeights(
        "ResNet-152, trained on full ImageNet by torchvision (first version)",
        f"{_TORCH}/resnet152-394f9c45.pth", "sha256:394f9c45", _NAMED, {"kind": "timm", "model": "resnet152"},
    ),
    "resnet152_a1h_imagenet": OfficialWeights(
        "ResNet-152, trained on full ImageNet by timm (recipe a1h)",
        f"{_TIMM}/resnet152_a1h-dc400468.pth", "sha256:dc400468", _NAMED, {"kind": "timm", "model": "resnet152"},
    ),
    "resnext50_32x4d_imagenet": OfficialWeights(
        "ResNeXt-50 32x4d, trained on full ImageNet by torchvision (first version)",
        f"{_TORCH}/resnext50_32x4d-7cdf4587.pth", "sha256:7cdf4587", _NAMED,
        {"kind": "timm", "model": "resnext50_32x4d"},
    ),
    "resnext50_32x4d_a1h_imagenet": OfficialWeights(
        "ResNeXt-50 32x4d, trained on full ImageNet by timm (recipe a1h)",
        f"{_TIMM}/resnext50_32x4d_a1h-0146ab0a.pth", "sha256:0146ab0a", _NAMED,
        {"kind": "timm", "model": "resnext50_32x4d"},
    ),
}  # fmt: skip
"""Official weights by their names in studies."""


class Initial(Section):
    """Initial weights for pretraining, or for finetuning without pretraining. The classifier is always new."""

    weights: str | None = None
    """Name of official weights. `mem weights list` prints the names; `mem weights get NAME` downloads a file."""
    file: Annotated[str | None, Unkeyed()] = None
    """Weights file (.pth or .safetensors): a local copy of the official weights, or custom weights. The digest of
    custom weights is part of the run key."""

    @field_validator("weights")
    @classmethod
    def _is_known(cls, name: str | None) -> str | None:
        if name is not None and name not in OFFICIAL:
            near = difflib.get_close_matches(name, OFFICIAL, n=1)
            hint = f"; did you mean {near[0]}?" if near else "."
            raise ValueError(
                f"unknown official weights {name}{hint} Available: {', '.join(OFFICIAL)}. "
                "Set `file` to use weights from a file"
            )
        return name

    @model_validator(mode="after")
    def _has_a_source(self) -> Initial:
        if self.weights is None and self.file is None:
            raise ValueError("set `weights` (a name) or `file` (a path)")
        return self
