"""The files that the stages write into their run folders, as in the rules of the workflow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

OUTPUT_FILES: Mapping[str, tuple[str, ...]] = {
    "convert": ("train.beton", "val.beton", "test.beton", "dataset.json", "images.csv"),
    "pretrain": ("encoder.safetensors", "autoencoder.safetensors"),
    "finetune": ("model.safetensors",),
    "features": ("train-labels.npy", "val-labels.npy", "test-labels.npy", "features.json"),
    "train_head": ("head.json", "head.safetensors"),
    "evaluate": ("metrics.json", "predictions.parquet"),
}
"""Output files by stage, without run.json. `report` writes to `results/` instead of its run folder."""
POOLED_FEATURES = ("train-pooled.npy", "val-pooled.npy", "test-pooled.npy")
"""Additional output files of `features`, unless `features.online` is set."""


def output_files(stage: str, settings: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Return the names of a run's output files, or None if the stage does not write them to its run folder."""
    names = OUTPUT_FILES.get(stage)
    if names is not None and stage == "features" and not (settings.get("features") or {}).get("online", False):
        names += POOLED_FEATURES
    return names
