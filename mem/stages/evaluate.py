"""Stage `evaluate`: computes a head's predictions and scores on test and, if there is a val split, on val.

In the branch `select` of a study with `selection`, it computes them only on val, the held-out training images.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mem import config, files, longtail
from mem.data.features.stored import FeatureSource, read_about
from mem.errors import UserError, first_of
from mem.heads.base import Head
from mem.heads.build import load_head
from mem.heads.mem.modulated import ModulatedHead
from mem.heads.predict import predict
from mem.heads.temperature import TemperatureScores, calibration_record
from mem.jobs.feature_sources import counts_before_holdout, crops_of, evaluated_sources, feature_sources
from mem.jobs.image_names import image_names
from mem.jobs.job import Job
from mem.metrics.predictions import PREDICTIONS_FILE, PredictionMetadata, Predictions, write_predictions
from mem.metrics.scores import classes_without_images, scalars, split_scores
from mem.runs.keys import CROPS, SPLIT

SPLITS = ("val", "test")


def evaluate(job: Job) -> Mapping[str, Any]:
    """Write `metrics.json` and `predictions.parquet`, and log the scores."""
    shots = job.run.section("shots", config.Shots)
    folder = job.inputs["features"]
    counts = np.asarray(read_about(folder)["class_counts"], dtype=np.int64)
    split_of = feature_sources(job)
    before_holdout = counts_before_holdout(job, counts, split_of)
    groups = longtail.shot_groups(counts if before_holdout is None else before_holdout, shots)
    head = load_head(job.inputs["head"])
    transductive = {"transductive": True} if head.transductive else {}
    crops = crops_of(job)
    about_crops = {} if crops is None else {CROPS: crops.model_dump()}
    _check_classes(job, len(counts))
    metadata = PredictionMetadata(
        dataset=job.run.dataset,
        variant=job.run.labels["variant"],
        head=job.run.inputs["head"].rsplit("-", 1)[1],
        thresholds=str(shots),
        shot_of_class=tuple(groups.tolist()),
        group_of_class=_mem_partition(head),
        crops="" if crops is None else str(crops),
    )
    splits = _splits_with_images(job, evaluated_sources(job), len(counts))
    names = image_names(folder)
    head = head.to(job.world.device)
    predictions: dict[str, Predictions] = {}
    temperatures = {name: TemperatureScores() for name in splits}
    scores: dict[str, dict[str, Any]] = {}
    for name, split in splits.items():
        names_of_split = names.get(name)
        if names_of_split is not None and len(names_of_split) != len(split):
            names_of_split = None
        predictions[name] = predict(head, split, groups, job.world.device, names_of_split, temperatures[name])
        scores[name] = split_scores(predictions[name], metadata)
        # The scores of all evaluations of a head are in one MLflow run.
        prefix = name if crops is None else f"{name} {crops}"
        job.log.scalars({f"{prefix}/{key}": value for key, value in scalars(scores[name]).items()}, step=0)
        if absent := classes_without_images(predictions[name], len(counts)):
            job.say(
                f"{name} has no images of {len(absent)} of {len(counts)} classes ({first_of(absent)}). Means over "
                "classes exclude them."
            )
    if job.world.is_main:
        write_predictions(job.folder.path / PREDICTIONS_FILE, metadata, predictions)
        content: dict[str, Any] = {"thresholds": str(shots), "class_counts": counts.tolist()}
        if before_holdout is not None:
            content["counts_before_holdout"] = before_holdout.tolist()
        content |= transductive | about_crops
        # Without this key, the intervals are those of an earlier version, whose bootstrap had no strata.
        content |= {"interval_strata": "classes", "splits": scores, "calibration": calibration_record(temperatures)}
        files.write_text(job.folder.path / "metrics.json", json.dumps(content, indent=2) + "\n")
    accuracy = {name: scores[name]["accuracy"] for name in splits}
    last = next(reversed(accuracy))
    scores_text = [f"{name} {'-' if v is None else format(v, '.1f')}" for name, v in accuracy[last].items()]
    with_crops = "" if crops is None else f" ({crops})"
    job.say(f"{job.run.labels['variant']}{with_crops}, {last}: {', '.join(scores_text)}")
    routed = {name: scores[name]["experts_used"] for name in splits if "experts_used" in scores[name]}
    return {**accuracy, **transductive, **about_crops, **({"experts_used": routed} if routed else {})}


def _check_classes(job: Job, classes: int) -> None:
    """Check that the head and the features have the same number of classes.

    Raises:
        UserError: The numbers differ, because the head and the features belong to different datasets.
    """
    head = job.inputs["head"]
    head_classes = json.loads((head / "head.json").read_text(encoding="utf-8"))["classes"]
    if head_classes != classes:
        raise UserError(
            f"{head}: this head has {head_classes} classes, but {job.inputs['features']} has features of {classes} "
            "classes. They belong to different datasets. Train the head on these features: mem train_head"
        )


def _splits_with_images(job: Job, split_of: Callable[[str], FeatureSource], classes: int) -> dict[str, FeatureSource]:
    """Return the features of the splits to evaluate that have images.

    Raises:
        UserError: The test split has no images, or a label is not a class number.
    """
    folder, only = job.inputs["features"], job.run.settings.get(SPLIT)
    splits = {name: split for name in SPLITS if only in (None, name) and len(split := split_of(name))}
    if "test" not in splits and only is None:
        raise UserError(
            f"{folder}: the test split has no images, so there is nothing to evaluate. Set `dataset.test`; see "
            "docs/how-to/data.md."
        )
    for name, split in splits.items():
        labels = np.asarray(split.labels)
        if labels.min() < 0 or labels.max() >= classes:
            raise UserError(
                f"{folder}: {name} has labels from {labels.min()} to {labels.max()}, but there are {classes} classes "
                f"(0 to {classes - 1}). Recompute the features: mem features"
            )
    return splits


def _mem_partition(head: Head) -> tuple[int, ...] | None:
    """Return the group of each class in the partition of a MEM head, or None for other heads."""
    if not isinstance(head, ModulatedHead):
        return None
    return tuple(head.get_buffer("group_of_class").tolist())
