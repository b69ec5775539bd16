"""Finished studies with heads to export: a ViT with every kind of head, and a convolutional network."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from mem.config import Digits
from mem.data.datasets import read_dataset
from mem.runs.dag import Run
from tests.stages.running import MINI_VALUES, find_run, run_study

_TRAINING = MINI_VALUES["heads"]["mem"]["training"]
HEADS = {name: MINI_VALUES["heads"][name] for name in ("ce", "crt", "mem", "mem_on_crt")} | {
    "block_classifier": {"input": "tokens", "width": 8, "depth": 1, "classifier_from": "ce", "training": _TRAINING},
    "logit_fusion": {
        "partition": "shot", "top_k": 2, "fusion_width": 8, "weight": "additive", "classifier": "frozen",
        "classifier_from": "crt", "training": _TRAINING,
    },
}  # fmt: skip
VARIANTS = tuple(HEADS)
CHANGES = {
    "pretrain": None,
    "finetune": MINI_VALUES["finetune"] | {"epochs": 2},
    "heads": HEADS,
}
CNN = {"name": "cnn_mini", "kind": "timm", "model": "resnet10t", "image_size": 32, "norm_batch": 8, "center_crop": 0.9}


class FinishedStudy(NamedTuple):
    """Runs of a finished study, and the folder that contains them."""

    folder: Path
    runs: list[Run]

    def run(self, stage: str, variant: str | None = None) -> Path:
        """Return the run folder of a stage."""
        return self.folder / find_run(self.runs, stage, variant).folder

    def test_images(self, number: int) -> list[np.ndarray]:
        """Return the given number of test images as they were before conversion."""
        dataset = find_run(self.runs, "convert").settings["dataset"]
        assert isinstance(dataset, Digits)
        test = read_dataset(dataset, 0).test
        images = [test.read(i) for i in range(number)]
        assert all(isinstance(image, np.ndarray) for image in images)
        return images  # type: ignore[return-value]


@pytest.fixture(scope="session")
def vit(tmp_path_factory: pytest.TempPathFactory) -> FinishedStudy:
    """A finished study with a ViT."""
    folder = tmp_path_factory.mktemp("vit")
    return FinishedStudy(folder, run_study(folder, MINI_VALUES | CHANGES))


@pytest.fixture(scope="session")
def cnn(tmp_path_factory: pytest.TempPathFactory) -> FinishedStudy:
    """A finished study with a convolutional network, on images that are stored as JPEG, cropped and enlarged."""
    folder = tmp_path_factory.mktemp("cnn")
    dataset = MINI_VALUES["dataset"] | {"storage": "jpeg", "jpeg_quality": 80}
    finetune = CHANGES["finetune"] | {"layer_decay": 1.0, "drop_path": 0.0}
    changes = CHANGES | {"dataset": dataset, "backbone": CNN, "finetune": finetune}
    return FinishedStudy(folder, run_study(folder, MINI_VALUES | changes))
