"""Settings for initial weights, and the table of official weights."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import field_validator, model_validator

from mem.config.base import Section, Unkeyed
from mem.config.weights_files import weights_in_folder
from mem.config.weights_names import FOLDER_PREFIX, HUB_PREFIX, Commit, check_name, folder_of, is_on_hub


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
    licence: str | None = None
    """Licence of the repository that publishes the weights, as an identifier of SPDX in small letters."""

    @property
    def file(self) -> str:
        """File name in the folder for downloaded weights."""
        return self.address.rsplit("/", 1)[1] if not self.address.startswith(_DRIVE) else self._drive_file_name

    @property
    def _drive_file_name(self) -> str:
        return f"drive-{self.address.split('id=')[1].split('&')[0]}.pth"


_MAE = "https://dl.fbaipublicfiles.com/mae"
_MAE_README = "facebookresearch/mae, README.md and FINETUNE.md (md5, first six digits)"
_MAE_LICENCE = "cc-by-nc-4.0"
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
        f"{_MAE}/pretrain/mae_pretrain_vit_base.pth", "md5:8cad7c", _MAE_README, _VIT_B, _MAE_LICENCE,
    ),
    "mae_pretrain_vit_large": OfficialWeights(
        "MAE ViT-L/16, 1600 epochs on ImageNet, encoder only",
        f"{_MAE}/pretrain/mae_pretrain_vit_large.pth", "md5:b8b06e", _MAE_README, _VIT_L, _MAE_LICENCE,
    ),
    "mae_finetuned_vit_base": OfficialWeights(
        "MAE ViT-B/16, finetuned on full ImageNet (83.664 %)",
        f"{_MAE}/finetune/mae_finetuned_vit_base.pth", "md5:1b25e9", _MAE_README, _VIT_B, _MAE_LICENCE,
    ),
    "mae_finetuned_vit_large": OfficialWeights(
        "MAE ViT-L/16, finetuned on full ImageNet (85.952 %)",
        f"{_MAE}/finetune/mae_finetuned_vit_large.pth", "md5:51f550", _MAE_README, _VIT_L, _MAE_LICENCE,
    ),
    "convmae_pretrain_base": OfficialWeights(
        "ConvMAE-B, 1600 epochs on ImageNet",
        _drive("1AEPivXw0A0b_m5EwEi6fg2pOAoDr8C31"), None, _CONVMAE_README, _CONVMAE_B, "mit",
    ),
    "convmae_finetuned_base": OfficialWeights(
        "ConvMAE-B, finetuned on full ImageNet (84.982 %)",
        _drive("19F6vQUlITpzNLvXLKi5NRxRLOmKRxqFi"), None, _CONVMAE_README, _CONVMAE_B, "mit",
    ),
    "resnet152_imagenet": OfficialWeights(
        "ResNet-152, trained on full ImageNet by torchvision (first version)",
        f"{_TORCH}/resnet152-394f9c45.pth", "sha256:394f9c45", _NAMED, {"kind": "timm", "model": "resnet152"},
        "bsd-3-clause",
    ),
    "resnet152_a1h_imagenet": OfficialWeights(
        "ResNet-152, trained on full ImageNet by timm (recipe a1h)",
        f"{_TIMM}/resnet152_a1h-dc400468.pth", "sha256:dc400468", _NAMED, {"kind": "timm", "model": "resnet152"},
        "apache-2.0",
    ),
    "resnext50_32x4d_imagenet": OfficialWeights(
        "ResNeXt-50 32x4d, trained on full ImageNet by torchvision (first version)",
        f"{_TORCH}/resnext50_32x4d-7cdf4587.pth", "sha256:7cdf4587", _NAMED,
        {"kind": "timm", "model": "resnext50_32x4d"}, "bsd-3-clause",
    ),
    "resnext50_32x4d_a1h_imagenet": OfficialWeights(
        "ResNeXt-50 32x4d, trained on full ImageNet by timm (recipe a1h)",
        f"{_TIMM}/resnext50_32x4d_a1h-0146ab0a.pth", "sha256:0146ab0a", _NAMED,
        {"kind": "timm", "model": "resnext50_32x4d"}, "apache-2.0",
    ),
}  # fmt: skip
"""Official weights by their names in studies."""


def unknown_weights(name: str) -> str:
    """Return the message for a name that is neither that of official weights nor that of weights of the hub."""
    near = difflib.get_close_matches(name, OFFICIAL, n=1)
    hint = f"; did you mean {near[0]}?" if near else "."
    return (
        f"unknown official weights {name}{hint} Available: {', '.join(OFFICIAL)}. Other weights: "
        f"{HUB_PREFIX}OWNER/REPOSITORY, or a timm tag (`mem weights list {name or 'PATTERN'}` lists the tags)"
    )


Keys = Literal["names", "order"]
"""How tensors of a weights file are found."""


class Initial(Section):
    """Initial weights for pretraining, or for finetuning without pretraining. The classifier is always new."""

    weights: str | None = None
    """Name of the weights: official weights (`mem weights list` prints the names), `hf-hub:OWNER/REPOSITORY` (a
    repository of the Hugging Face hub), a timm tag such as `vit_base_patch16_clip_224.openai`, or `local-dir:PATH` (a
    folder with `config.json` and `model.safetensors`). `mem weights get NAME` downloads the file. The digest of the
    file in a folder is part of the run key, and its path is not."""
    revision: Commit | None = None
    """Commit of the hub's repository, 40 hexadecimal digits: required for `hf-hub:` and timm tags. `mem weights show
    NAME` prints it."""
    file: Annotated[str | None, Unkeyed()] = None
    """Weights file (.pth or .safetensors): a local copy of the official weights, or custom weights. The digest of
    custom weights is part of the run key."""
    keys: Keys = "names"
    """How the tensors of the weights are found: `names` uses their names, which are converted if they are those of
    another project; `order` uses their order and shapes, for files with other names. run.json lists each pair."""

    @field_validator("weights")
    @classmethod
    def _is_known(cls, name: str | None) -> str | None:
        if name is None:
            return None
        check_name(name)
        if name not in OFFICIAL and not is_on_hub(name) and folder_of(name) is None:
            raise ValueError(f"{unknown_weights(name)}. To use own weights, set `file`, or use {FOLDER_PREFIX}PATH")
        return name

    @model_validator(mode="after")
    def _has_a_source(self) -> Initial:
        if self.weights is None and self.file is None:
            raise ValueError("set `weights` (a name) or `file` (a path)")
        if self.revision is not None and not self.on_hub:
            raise ValueError(f"revision: applies only to weights of the hub ({HUB_PREFIX} or a timm tag); remove it")
        if self.file is not None and (self.on_hub or self.folder is not None):
            raise ValueError(f"file: cannot be combined with weights: {self.weights}; remove one of them")
        return self

    def without_effect(self) -> frozenset[str]:
        """Return `weights` for a folder: its content is part of the key as a digest, its path is not."""
        return frozenset({"weights"} if self.folder is not None else ())

    @property
    def on_hub(self) -> bool:
        """Whether the weights are those of a repository of the hub."""
        return self.weights is not None and is_on_hub(self.weights)

    @property
    def missing_revision(self) -> str:
        """Message if the weights are on the hub and their commit is missing, or an empty text."""
        if not self.on_hub or self.revision is not None:
            return ""
        return (
            f"initial.revision is missing. The weights {self.weights} can change on the hub, but results must not "
            "change."
        )

    @property
    def folder(self) -> Path | None:
        """The folder of `local-dir:`, or None for other weights."""
        return None if self.weights is None else folder_of(self.weights)

    @property
    def custom_file(self) -> Path | None:
        """The file of custom weights, whose digest is part of the key: `file`, or that in the folder of `local-dir:`.

        None for weights with a name, and for a folder without a weights file.
        """
        if self.folder is not None:
            return weights_in_folder(self.folder)
        return Path(self.file) if self.weights is None and self.file is not None else None
