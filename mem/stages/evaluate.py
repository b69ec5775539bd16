"""Stage `evaluate`: a head's predictions and scores, on val if there is one, and, once, on test."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mem import config, files, longtail
from mem.data.features.files import FeatureSource, read_about
from mem.errors import UserError
from mem.heads.base import Head
from mem.heads.build import load_head
from mem.heads.mem.head import MemHead
from mem.heads.predict import predict
from mem.jobs.job import Job
from mem.jobs.online_features import feature_sources
from mem.metrics.predictions import FILE, About, Predictions, write_predictions
from mem.metrics.scores import classes_without_images, scalars, split_scores
from mem.runs.folder import read_record

SPLITS = ("val", "test")


def evaluate(job: Job) -> Mapping[str, Any]:
    """Write `metrics.json` and `predictions.parquet`, and log the scores."""
    shots = job.run.section("shots", config.Shots)
    folder = job.inputs["features"]
    counts = np.asarray(read_about(folder)["class_counts"], dtype=np.int64)
    groups = longtail.shot_groups(counts, shots)
    head = load_head(job.inputs["head"])
    _check_classes(job, len(counts))
    about = About(
        dataset=job.run.dataset,
        variant=job.run.labels["variant"],
        head=job.run.inputs["head"].rsplit("-", 1)[1],
        thresholds=str(shots),
        shot_of_class=tuple(groups.tolist()),
        group_of_class=_partition(head),
    )
    splits = _splits(job, len(counts))
    names = _names(folder)
    head = head.to(job.world.device)
    answered: dict[str, Predictions] = {}
    scores: dict[str, dict[str, Any]] = {}
    for name, split in splits.items():
        known = names.get(name)
        known = known if known is not None and len(known) == len(split) else None
        answered[name] = predict(head, split, groups, job.world.device, known)
        scores[name] = split_scores(answered[name], about)
        job.log.scalars({f"{name}/{key}": value for key, value in scalars(scores[name]).items()}, step=0)
        if absent := classes_without_images(answered[name], len(counts)):
            job.say(
                f"{name} has no image of {len(absent)} of {len(counts)} classes ({_first(absent)}): they are left out "
                "of every mean over classes."
            )
    if job.world.is_main:
        write_predictions(job.folder.path / FILE, about, answered)
        content = {"thresholds": str(shots), "class_counts": counts.tolist(), "splits": scores}
        files.write_text(job.folder.path / "metrics.json", json.dumps(content, indent=2) + "\n")
    accuracy = {name: scores[name]["accuracy"] for name in splits}
    words = [f"{name} {'-' if v is None else format(v, '.1f')}" for name, v in accuracy["test"].items()]
    job.say(f"{job.run.labels['variant']}, test: {', '.join(words)}")
    return accuracy


def _check_classes(job: Job, classes: int) -> None:
    """The head and the features must know the same classes."""
    head = job.inputs["head"]
    known = json.loads((head / "head.json").read_text(encoding="utf-8"))["classes"]
    if known != classes:
        raise UserError(
            f"{head}: this head knows {known} classes, but {job.inputs['features']} has features of {classes}: they "
            "are of different data sets. Train the head on these features: mem train_head"
        )


def _splits(job: Job, classes: int) -> dict[str, FeatureSource]:
    """The splits that have images.

    Raises:
        UserError: Test has none, or a label is no class.
    """
    folder, split_of = job.inputs["features"], feature_sources(job)
    splits = {name: split for name in SPLITS if len(split := split_of(name))}
    if "test" not in splits:
        raise UserError(
            f"{folder}: the test split has no images, so there is nothing to report. Give the data set one: "
            "docs/how-to/data.md says how (`dataset.test`)"
        )
    for name, split in splits.items():
        labels = np.asarray(split.labels)
        if labels.min() < 0 or labels.max() >= classes:
            raise UserError(
                f"{folder}: {name} has labels from {labels.min()} to {labels.max()}, but there are {classes} classes "
                f"(0 to {classes - 1}). Make the features again: mem features"
            )
    return splits


def _partition(head: Head) -> tuple[int, ...] | None:
    """Group of each class under MEM's partition; nothing for other heads."""
    if not isinstance(head, MemHead):
        return None
    return tuple(head.get_buffer("group_of_class").tolist())


def _names(features: Path) -> dict[str, list[str]]:
    """Name of each image by split, where the features are of converted images and their list is still there."""
    images = read_record(features)["inputs"].get("images")
    path = Path(images, "images.csv") if images is not None else None
    if path is None or not path.is_file():
        return {}
    found: dict[str, list[str]] = {}
    with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
        for line in csv.DictReader(file):
            if line["split"] in SPLITS:
                found.setdefault(line["split"], []).append(line["name"])
    return found


def _first(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:5]))
    return shown if len(numbers) <= 5 else f"{shown}, ..."
