"""Weights that a training starts from, and the official ones that have a name here."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import field_validator, model_validator

from mem.config.base import Section, Unkeyed


@dataclass(frozen=True)
class Official:
    """A checkpoint that its authors publish."""

    about: str
    address: str
    checksum: str | None
    """`algorithm:beginning of the digest`, as far as it is published; None where it is not."""
    source: str
    """Where address and checksum stand."""
    backbone: Mapping[str, Any] = field(default_factory=dict)
    """What the study's backbone must be."""

    @property
    def file(self) -> str:
        """Its name in the folder of downloaded weights."""
        return self.address.rsplit("/", 1)[1] if not self.address.startswith(_DRIVE) else self._drive_file

    @property
    def _drive_file(self) -> str:
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


OFFICIAL: Mapping[str, Official] = {
    "mae_pretrain_vit_base": Official(
        "MAE ViT-B/16, 1600 epochs on ImageNet, encoder only",
        f"{_MAE}/pretrain/mae_pretrain_vit_base.pth", "md5:8cad7c", _MAE_README, _VIT_B,
    ),
    "mae_pretrain_vit_large": Official(
        "MAE ViT-L/16, 1600 epochs on ImageNet, encoder only",
        f"{_MAE}/pretrain/mae_pretrain_vit_large.pth", "md5:b8b06e", _MAE_README, _VIT_L,
    ),
    "mae_finetuned_vit_base": Official(
        "MAE ViT-B/16, finetuned on full ImageNet (83.664 %)",
        f"{_MAE}/finetune/mae_finetuned_vit_base.pth", "md5:1b25e9", _MAE_README, _VIT_B,
    ),
    "mae_finetuned_vit_large": Official(
        "MAE ViT-L/16, finetuned on full ImageNet (85.952 %)",
        f"{_MAE}/finetune/mae_finetuned_vit_large.pth", "md5:51f550", _MAE_README, _VIT_L,
    ),
    "convmae_pretrain_base": Official(
        "ConvMAE-B, 1600 epochs on ImageNet",
        _drive("1AEPivXw0A0b_m5EwEi6fg2pOAoDr8C31"), None, _CONVMAE_README, _CONVMAE_B,
    ),
    "convmae_finetuned_base": Official(
        "ConvMAE-B, finetuned on full ImageNet (84.982 %)",
        _drive("19F6vQUlITpzNLvXLKi5NRxRLOmKRxqFi"), None, _CONVMAE_README, _CONVMAE_B,
    ),
    "resnet152_imagenet": Official(
        "ResNet-152, trained on full ImageNet by torchvision (first version)",
        f"{_TORCH}/resnet152-394f9c45.pth", "sha256:394f9c45", _NAMED, {"kind": "timm", "model": "resnet152"},
    ),
    "resnet152_a1h_imagenet": Official(
        "ResNet-152, trained on full ImageNet by timm (recipe a1h)",
        f"{_TIMM}/resnet152_a1h-dc400468.pth", "sha256:dc400468", _NAMED, {"kind": "timm", "model": "resnet152"},
    ),
    "resnext50_32x4d_imagenet": Official(
        "ResNeXt-50 32x4d, trained on full ImageNet by torchvision (first version)",
        f"{_TORCH}/resnext50_32x4d-7cdf4587.pth", "sha256:7cdf4587", _NAMED,
        {"kind": "timm", "model": "resnext50_32x4d"},
    ),
    "resnext50_32x4d_a1h_imagenet": Official(
        "ResNeXt-50 32x4d, trained on full ImageNet by timm (recipe a1h)",
        f"{_TIMM}/resnext50_32x4d_a1h-0146ab0a.pth", "sha256:0146ab0a", _NAMED,
        {"kind": "timm", "model": "resnext50_32x4d"},
    ),
}  # fmt: skip
"""By the name that a study uses."""


class Initial(Section):
    """Weights that pretraining starts from, or finetuning where there is no pretraining; the classifier is fresh."""

    weights: str | None = None
    """Name of an official checkpoint; `mem weights list` shows them, `mem weights get NAME` downloads one."""
    file: Annotated[str | None, Unkeyed()] = None
    """A file of weights (.pth or .safetensors): the official ones where there is no network, or any others, which
    then count by their content."""

    @field_validator("weights")
    @classmethod
    def _is_known(cls, name: str | None) -> str | None:
        if name is not None and name not in OFFICIAL:
            near = difflib.get_close_matches(name, OFFICIAL, n=1)
            hint = f"; did you mean {near[0]}?" if near else "."
            raise ValueError(
                f"there are no official weights {name}{hint} There are {', '.join(OFFICIAL)}. A file goes into `file`"
            )
        return name

    @model_validator(mode="after")
    def _says_which(self) -> Initial:
        if self.weights is None and self.file is None:
            raise ValueError("needs `weights` (a name) or `file` (a path)")
        return self
