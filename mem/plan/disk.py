"""Disk space of a run: the final files, and the checkpoints that exist during the run."""

from __future__ import annotations

from dataclasses import dataclass

from mem.config import FeatureFiles, Features, Study
from mem.plan.image_counts import ImageCounts, beton_bytes
from mem.plan.memory import FLOAT_BYTES, OPTIMIZER_STATES
from mem.plan.model_cost import ModelCost
from mem.train.sizes import KEPT_CHECKPOINTS, LOGGED_POINTS

RECORD_BYTES = 3_000.0
"""Total size of config.yaml, site.yaml and run.json."""
LOG_POINT_BYTES = {"backbone": 310.0, "head": 330.0, "mem": 425.0}
"""Size of one point of the training curves in log.jsonl."""
CANDIDATE_BYTES = 267.0
"""Size of one candidate value of tau in log.jsonl and run.json."""
IMAGE_NAME_BYTES = 40.0
"""Size of one line of images.csv."""
PREDICTION_BYTES = 31.0
"""Size of one image's row in predictions.parquet."""
PARQUET_BYTES = 3_000.0
"""Size of predictions.parquet without its rows."""
CALIBRATION_BYTES = 5_600.0
"""Size of the calibration at all temperatures in metrics.json."""
REPORT_BYTES = 1_335_000.0
"""Total size of the report page with its pictures, the tables, and the figures as SVG and PNG."""
_DTYPE_BYTES = {"float32": 4, "float16": 2}
"""Bytes per element of a stored feature, by `features.pooled_dtype` and `features.dtype`."""


@dataclass(frozen=True)
class DiskUse:
    """Disk space of a run in bytes."""

    final_bytes: float
    """Size of the files that remain after the run."""
    running_bytes: float = 0.0
    """Size of the checkpoints, which are deleted when the run is finished."""


def convert(study: Study, images: ImageCounts) -> DiskUse:
    """Return the disk space of the image list and the .beton files (with `storage: fit`, at most `size_budget_gb`).

    After the conversion, this is the size of its files.
    """
    if images.converted_bytes is not None:
        return DiskUse(images.converted_bytes)
    betons = sum(beton_bytes(number, images.bytes_per_image) for number in images.splits.values())
    assert not isinstance(study.dataset, FeatureFiles)
    if study.dataset.size_budget_gb is not None:
        betons = min(betons, 1e9 * study.dataset.size_budget_gb)
    return DiskUse(betons + IMAGE_NAME_BYTES * images.total + 30 * images.classes + RECORD_BYTES)


def training(model: ModelCost, saved_weights: int, optimizer: str, steps: int, *, averaged: int) -> DiskUse:
    """Return the disk space of a training run: weights and curves, and checkpoints during the run.

    Args:
        model: The trained model.
        saved_weights: Number of parameters in the final files.
        optimizer: A key of `OPTIMIZER_STATES`.
        steps: Optimizer steps.
        averaged: Number of parameters of which a moving average is kept.
    """
    optimizer_states = OPTIMIZER_STATES[optimizer] * model.trained_parameters
    checkpoint = FLOAT_BYTES * (model.changing_parameters + averaged + optimizer_states)
    final = FLOAT_BYTES * saved_weights + LOG_POINT_BYTES["backbone"] * _logged_points(steps) + RECORD_BYTES
    return DiskUse(final, (KEPT_CHECKPOINTS + 1) * checkpoint)


def features(study: Study, images: ImageCounts, width: int, tokens: int, *, online: bool) -> DiskUse:
    """Return the disk space of the classifier and of the features of every view of every image.

    Args:
        study: The study.
        images: Number of images per split.
        width: Dimension of a feature.
        tokens: Tokens per image.
        online: Whether heads compute the features when they need them, so that no features are stored.
    """
    views = study.features.views if study.features else 0
    stored_images = 0 if online else images.total + views * images.train
    return _features(study, stored_images, images.total, images.classes, (width, tokens))


def crops(study: Study, images: ImageCounts, width: int, tokens: int, number: int) -> DiskUse:
    """Return the disk space of the features of the crops of val and test.

    Args:
        study: The study.
        images: Number of images per split.
        width: Dimension of a feature.
        tokens: Tokens per image.
        number: Number of stored crops per image; 0 if heads compute the features when they need them.
    """
    evaluated = images.val + images.test
    return _features(study, number * evaluated, evaluated, images.classes, (width, tokens))


def _features(study: Study, views: int, labels: int, classes: int, shape: tuple[int, int]) -> DiskUse:
    """Return the disk space of features, labels and a classifier.

    Args:
        study: The study.
        views: Number of stored views, over all images.
        labels: Number of images.
        classes: Number of classes.
        shape: Dimension of a feature, and tokens per image.
    """
    width, tokens = shape
    pooled_bytes, token_bytes = feature_bytes(study.features)
    view_bytes = width * (pooled_bytes + token_bytes * tokens * study.may_have_tokens)
    classifier_bytes = FLOAT_BYTES * classes * (width + 1)
    return DiskUse(views * view_bytes + 8 * labels + classifier_bytes + RECORD_BYTES)


def feature_bytes(settings: Features | None) -> tuple[int, int]:
    """Return the bytes per element of stored pooled features and of stored tokens. None means features of the user."""
    if settings is None:
        return FLOAT_BYTES, FLOAT_BYTES
    return _DTYPE_BYTES[settings.pooled_dtype], _DTYPE_BYTES[settings.dtype]


def adapt(steps: int) -> DiskUse:
    """Return the disk space of learning the weights of experts: curves, and a few numbers."""
    return DiskUse(LOG_POINT_BYTES["head"] * _logged_points(steps) + RECORD_BYTES)


def head(
    model: ModelCost, classes: int, optimizer: str, steps: int, candidates: int = 0, *, kind: str = "head"
) -> DiskUse:
    """Return the disk space of a head: weights, class counts, curves, and scores of the candidate values of tau.

    Args:
        model: The head.
        classes: Number of classes.
        optimizer: A key of `OPTIMIZER_STATES`.
        steps: Optimizer steps; 0 if the head is not trained.
        candidates: Number of candidate values of tau; 0 if tau is not selected.
        kind: A key of `LOG_POINT_BYTES`.
    """
    checkpoint = FLOAT_BYTES * (model.parameters + model.trained_parameters * OPTIMIZER_STATES[optimizer])
    curves = LOG_POINT_BYTES[kind] * _logged_points(steps)
    final = FLOAT_BYTES * model.parameters + 9 * classes + curves + CANDIDATE_BYTES * candidates + RECORD_BYTES
    return DiskUse(final, (KEPT_CHECKPOINTS + 1) * checkpoint if steps else 0.0)


def evaluate(images: ImageCounts, groups: int = 0) -> DiskUse:
    """Return the disk space of the compressed predictions and the per-class scores on val and test.

    Args:
        images: Number of images per split.
        groups: Number of groups of a MEM head, whose group weights and norms are stored for every image; 0 for other
            heads.
    """
    rows = (PREDICTION_BYTES + 2 * FLOAT_BYTES * groups) * (images.val + images.test)
    return DiskUse(rows + 60.0 * images.classes + PARQUET_BYTES + CALIBRATION_BYTES + 2.1 * RECORD_BYTES)


def _logged_points(steps: int) -> float:
    return steps / max(1, steps // LOGGED_POINTS)
