"""Small image classifiers without runs, and a script that writes some of them as ONNX models.

The script runs in a process of its own, because torch.export cannot trace functions whose types are checked.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter

from mem import config
from mem.export.classifier import ImageClassifier
from mem.export.described_model import groups_of
from mem.export.onnx_model import write_onnx
from mem.heads.base import Head, Linear
from mem.heads.build import HeadInputs, build_head
from mem.heads.cosine import CosineHead
from mem.heads.ncm import NcmHead
from mem.models.backbones import build
from mem.models.pixels import Pixels

CLASSES = 5
VIT = {
    "name": "vit", "kind": "vit", "image_size": 8, "patch_size": 4, "width": 16, "depth": 2, "heads": 2,
    "center_crop": 1.0,
}  # fmt: skip
CNN = {"name": "cnn", "kind": "timm", "model": "resnet10t", "image_size": 32, "norm_batch": 8, "center_crop": 0.9}
CONVMAE = {
    "name": "convmae", "kind": "convmae", "image_size": 32, "patch_sizes": [4, 2, 2], "widths": [8, 8, 16],
    "depths": [1, 1, 1], "heads": 2, "center_crop": 1.0,
}  # fmt: skip
MEM = {
    "method": "mem", "partition": "shot", "input": "tokens", "width": 8, "depth": 1, "xi": 20.0, "mu": 0.0, "top_k": 2,
    "reo_weight": 1.0, "fusion_width": 8, "weight": "free", "classifier": "trained", "classifier_from": "ce",
    "training": {
        "epochs": 1, "global_batch": 8, "optimizer": "adamw", "lr": 1e-3, "weight_decay": 0.0, "sampler": "instance",
    },
}  # fmt: skip


def backbone_of(values: dict[str, Any]) -> config.ImageBackbone:
    """Return the settings of a backbone."""
    return TypeAdapter(config.ImageBackbone).validate_python(values)


def classifier_of(values: dict[str, Any], head: Head | None = None, **options: Any) -> ImageClassifier:
    """Return a backbone with random weights and a head, by default a linear one.

    Args:
        values: Settings of the backbone.
        head: The head.
        **options: Further arguments of `mem.models.backbones.build`.
    """
    torch.manual_seed(0)
    model = build(backbone_of(values), CLASSES, **options)
    if head is None:
        head = Linear(torch.randn(CLASSES, model.width), torch.randn(CLASSES))
    return ImageClassifier(model, head, Pixels((0.4, 0.5, 0.6), (0.2, 0.3, 0.25)))


def about_of(values: dict[str, Any]) -> dict[str, Any]:
    """Return the part of an export.json that describes the network and its images."""
    return {
        "format": 1,
        "mem": "0",
        "classes": [f"class {i}" for i in range(CLASSES)],
        "backbone": values,
        "images": {
            "pixel_mean": [0.4, 0.5, 0.6],
            "pixel_std": [0.2, 0.3, 0.25],
            "storage": "raw",
            "jpeg_quality": 100,
            "short_side": None,
            "resample": "area",
        },
    }


def onnx_classifiers() -> dict[str, ImageClassifier]:
    """Return a classifier with each kind of head that ONNX must express, by name."""
    torch.manual_seed(1)
    width = VIT["width"]
    start, counts = Linear(torch.randn(CLASSES, width), torch.zeros(CLASSES)), np.array([200, 150, 50, 5, 4])
    inputs = HeadInputs(start, counts, config.Shots(), seed=0)
    present = torch.tensor([True, True, True, True, False])
    heads = {
        "cosine": CosineHead(torch.randn(CLASSES, width), 16.0),
        "ncm": NcmHead(torch.randn(width), torch.randn(CLASSES, width), present),
        "mem": build_head(TypeAdapter(config.Head).validate_python(MEM), inputs).eval(),
    }
    return {name: classifier_of(VIT, head) for name, head in heads.items()}


def main(folder: Path) -> None:
    """Write NAME.onnx for each of `onnx_classifiers`."""
    for name, classifier in onnx_classifiers().items():
        write_onnx(classifier, about_of(VIT), groups_of(classifier.head), folder / f"{name}.onnx")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
