"""Settings in which a study differs from the paper, and settings that the paper does not state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mem.config import Mem, Study
from mem.report.ablation import flatten

PRETRAIN: Mapping[str, Any] = {
    "warmup_epochs": 40,
    "base_lr": 1.5e-4,
    "betas": (0.9, 0.95),
    "weight_decay": 0.05,
    "mask_ratio": 0.75,
}
"""Pretraining settings from section 4.2 of the paper."""
PRETRAIN_EPOCHS = {"vit_base": 400, "convmae_base": 400, "vit_large": 800}
FINETUNE: Mapping[str, Any] = {"epochs": 100, "warmup_epochs": 5}
FINETUNE_PLACES: Mapping[str, Any] = {"epochs": 30}
DATASETS = ("imagenet_lt", "inat18", "places_lt")
CNN_BACKBONES = ("resnext50", "resnet152")
SHOTS = "many>100 few<20"
UNSTATED = ("input", "width", "fusion_width", "top_k", "weight", "classifier", "classifier_from", "training.sampler")
"""MEM settings that the paper does not state. docs/explanation/mem.md discusses each of them."""


def deviations(study: Study) -> list[list[str]]:
    """Return a table of settings with the paper's value and this study's value.

    The table contains only settings that differ from the paper or that the paper does not state.
    """
    lines: list[list[str]] = []
    if study.dataset.name not in DATASETS:
        lines.append(["dataset", "ImageNet-LT, iNaturalist 2018, Places-LT", study.dataset.name])
    if study.backbone.name not in (*PRETRAIN_EPOCHS, *CNN_BACKBONES):
        lines.append(["backbone", "ViT-B, ViT-L, ConvMAE-B, ResNeXt-50, ResNet-152", study.backbone.name])
    if str(study.shots) != SHOTS:
        lines.append(["shots", SHOTS, str(study.shots)])
    if study.pretrain is not None:
        epochs = {"epochs": PRETRAIN_EPOCHS.get(study.backbone.name, "400, 800 for ViT-L")}
        lines += _differing("pretrain", flatten(study.pretrain.model_dump()), {**epochs, **PRETRAIN})
    if study.finetune is not None:
        stated = FINETUNE_PLACES if study.dataset.name == "places_lt" else FINETUNE
        lines += _differing("finetune", flatten(study.finetune.model_dump()), stated)
    for name, head in study.heads.items():
        if isinstance(head, Mem) and name == _main_mem_head(study):
            settings = flatten(head.model_dump(mode="json"))
            lines += [[f"{name}: {key}", "not stated", _format(settings[key])] for key in UNSTATED if key in settings]
    lines.append(["heads", "trained on images", "trained on features, computed once per view"])
    return [["setting", "paper", "this study"], *lines]


def _main_mem_head(study: Study) -> str | None:
    names = [name for name, head in study.heads.items() if isinstance(head, Mem)]
    return "mem" if "mem" in names else next(iter(names), None)


def _differing(section: str, used: Mapping[str, Any], stated: Mapping[str, Any]) -> list[list[str]]:
    return [
        [f"{section}.{key}", _format(value), _format(used[key])]
        for key, value in stated.items()
        if key in used and used[key] != value
    ]


def _format(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(_format, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
