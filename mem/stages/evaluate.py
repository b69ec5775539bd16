"""Stage `evaluate`: a head's predictions and scores, on val if there is one, and, once, on test."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from mem import config, files, longtail, metrics
from mem.data.features import open_split, read_about
from mem.heads.build import load_head
from mem.heads.mem.head import MemHead
from mem.stages.job import Job
from mem.stages.train_head import predict

SPLITS = ("val", "test")


def evaluate(job: Job) -> Mapping[str, Any]:
    """Write `metrics.json` and `predictions.npz`, and log the scores."""
    shots = job.run.section("shots", config.Shots)
    folder = job.inputs["features"]
    counts = np.asarray(read_about(folder)["class_counts"], dtype=np.int64)
    groups = longtail.shot_groups(counts, shots)
    head = load_head(job.inputs["head"]).to(job.world.device)
    tokens = isinstance(head, MemHead) and head.settings.input == "tokens"

    scores: dict[str, Any] = {}
    predictions: dict[str, np.ndarray] = {}
    splits = {name: split for name in SPLITS if len(split := open_split(folder, name))}
    for name, split in splits.items():
        predicted = predict(head, split, tokens, job.world.device)
        predictions |= {f"{name}_label": split.labels, f"{name}_prediction": predicted.astype(np.int64)}
        by_shot = {k: 100 * v for k, v in metrics.shot_accuracy(predicted, split.labels, groups).items()}
        by_class = 100 * metrics.per_class_accuracy(predicted, split.labels, len(counts))
        wrong = predicted != split.labels
        landed = metrics.group_confusion(predicted[wrong], split.labels[wrong], groups, len(longtail.SHOT_NAMES))
        scores[name] = {
            "images": len(split),
            "accuracy": {k: _json(v) for k, v in by_shot.items()},
            "per_class": [_json(v) for v in by_class],
            "wrong_by_group": landed.tolist(),
        }
        job.log.scalars({f"{name}/{k}": v for k, v in by_shot.items() if not np.isnan(v)}, step=0)
    if job.world.is_main:
        with files.atomic(job.folder.path / "predictions.npz", "wb") as file:
            np.savez_compressed(file, allow_pickle=False, **predictions)
        content = {"thresholds": str(shots), "class_counts": counts.tolist(), "splits": scores}
        files.write_text(job.folder.path / "metrics.json", json.dumps(content, indent=2) + "\n")
    accuracy = {name: scores[name]["accuracy"] for name in splits}
    words = [f"{name} {'-' if v is None else format(v, '.1f')}" for name, v in accuracy["test"].items()]
    job.say(f"{job.run.labels['variant']}, test: {', '.join(words)}")
    return accuracy


def _json(value: float) -> float | None:
    """A percentage; nothing where there are no images to take it from."""
    return None if np.isnan(value) else round(float(value), 4)
