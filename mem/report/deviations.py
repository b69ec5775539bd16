"""Where a study departs from what the paper states, and what it chose where the paper is silent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mem.config import Mem, Study
from mem.report.ablation import flattened

PRETRAIN: Mapping[str, Any] = {
    "warmup_epochs": 40,
    "base_lr": 1.5e-4,
    "betas": (0.9, 0.95),
    "weight_decay": 0.05,
    "mask_ratio": 0.75,
}
"""Section 4.2 of the paper."""
PRETRAIN_EPOCHS = {"vit_base": 400, "convmae_base": 400, "vit_large": 800}
FINETUNE: Mapping[str, Any] = {"epochs": 100, "warmup_epochs": 5}
FINETUNE_PLACES: Mapping[str, Any] = {"epochs": 30}
DATASETS = ("imagenet_lt", "inat18", "places_lt")
OPEN = ("input", "width", "fusion_width", "top_k", "weight", "classifier", "classifier_from", "training.sampler")
"""Settings of MEM that the paper leaves open; docs/explanation/mem.md discusses each."""


def deviations(study: Study) -> list[list[str]]:
    """Header and lines: setting, what the paper has, what is here. Only what differs, or what the paper leaves open."""
    lines: list[list[str]] = []
    if study.dataset.name not in DATASETS:
        lines.append(["dataset", "ImageNet-LT, iNaturalist 2018, Places-LT", study.dataset.name])
    if study.backbone.name not in (*PRETRAIN_EPOCHS, "resnext50", "resnet152"):
        lines.append(["backbone", "ViT-B, ViT-L, ConvMAE-B, ResNeXt-50, ResNet-152", study.backbone.name])
    if str(study.shots) != "many>100 few<20":
        lines.append(["shots", "many>100 few<20", str(study.shots)])
    if study.pretrain is not None:
        epochs = {"epochs": PRETRAIN_EPOCHS.get(study.backbone.name, "400, 800 for ViT-L")}
        lines += _differing("pretrain", flattened(study.pretrain.model_dump()), {**epochs, **PRETRAIN})
    if study.finetune is not None:
        stated = FINETUNE_PLACES if study.dataset.name == "places_lt" else FINETUNE
        lines += _differing("finetune", flattened(study.finetune.model_dump()), stated)
    for name, head in study.heads.items():
        if isinstance(head, Mem) and name == _first_mem(study):
            settings = flattened(head.model_dump(mode="json"))
            lines += [[f"{name}: {key}", "left open", _text(settings[key])] for key in OPEN if key in settings]
    lines.append(["heads", "trained on images", "trained on features that were computed once a view"])
    return [["setting", "paper", "here"], *lines]


def _first_mem(study: Study) -> str | None:
    names = [name for name, head in study.heads.items() if isinstance(head, Mem)]
    return "mem" if "mem" in names else next(iter(names), None)


def _differing(section: str, here: Mapping[str, Any], paper: Mapping[str, Any]) -> list[list[str]]:
    return [
        [f"{section}.{key}", _text(stated), _text(here[key])]
        for key, stated in paper.items()
        if key in here and here[key] != stated
    ]


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(_text, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
