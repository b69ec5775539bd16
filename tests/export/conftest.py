"""Studies whose heads are exported: a ViT with every kind of head, and a convolutional network."""

from __future__ import annotations

from pathlib import Path

import pytest

from mem.runs.dag import Run
from tests.stages.test_no_val import MINI, ran

VARIANTS = ("ce", "crt", "mem", "mem_on_crt")
HEADS = {name: MINI["heads"][name] for name in VARIANTS}
SHORT = {"pretrain": None, "finetune": MINI["finetune"] | {"epochs": 2}}
CNN = {"name": "cnn_mini", "kind": "timm", "model": "resnet10t", "image_size": 32, "norm_batch": 8, "center_crop": 0.9}


@pytest.fixture(scope="session")
def vit(tmp_path_factory) -> tuple[Path, list[Run]]:
    """Where a study of a ViT was run, and its runs."""
    folder = tmp_path_factory.mktemp("vit")
    return folder, ran(folder, MINI | SHORT | {"heads": HEADS})


@pytest.fixture(scope="session")
def cnn(tmp_path_factory) -> tuple[Path, list[Run]]:
    """The same for a convolutional network, on images that are kept as JPEG, cropped and enlarged."""
    folder = tmp_path_factory.mktemp("cnn")
    dataset = MINI["dataset"] | {"storage": "jpeg", "jpeg_quality": 80}
    finetune = {"layer_decay": 1.0, "drop_path": 0.0}
    changed = {"dataset": dataset, "backbone": CNN, "heads": HEADS} | {"finetune": SHORT["finetune"] | finetune}
    return folder, ran(folder, MINI | SHORT | changed)


def run_of(runs: list[Run], stage: str, variant: str | None = None) -> Run:
    """The run of a stage, of a head where one is named."""
    return next(run for run in runs if run.stage == stage and variant in (None, run.labels.get("variant")))
