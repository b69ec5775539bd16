"""Settings for tests of objectives."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from mem.config import Finetune
from mem.objectives.base import Targets
from tests.objectives.numpy_objectives import Samples


def finetune(
    objective: Any, label_smoothing: float = 0.0, cosine_scale: float | None = None, experts: int | None = None
) -> Finetune:
    """Return the settings of a finetuning with an objective."""
    return Finetune.model_validate(
        {
            "epochs": 100,
            "warmup_epochs": 1,
            "global_batch": 64,
            "base_lr": 1e-3,
            "min_lr": 0,
            "betas": [0.9, 0.999],
            "weight_decay": 0,
            "precision": "fp32",
            "layer_decay": 1,
            "drop_path": 0,
            "augmentation": {"crop_scale": [0.5, 1], "flip": False},
            "validate_every_epochs": 1,
            "label_smoothing": label_smoothing,
            "objective": objective,
            "cosine_scale": cosine_scale,
            "experts": experts and {"number": experts},
        }
    )


def targets(samples: Samples, epoch: float = 0.0) -> Targets:
    """Return the same targets as tensors."""

    def tensor(values: np.ndarray | None) -> torch.Tensor | None:
        return None if values is None else torch.from_numpy(values)

    return Targets(torch.from_numpy(samples.labels), tensor(samples.partners), tensor(samples.shares), epoch)
