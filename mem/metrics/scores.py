"""Scores of a split, computed from its predictions: the content of `metrics.json`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mem import metrics
from mem.longtail import SHOT_NAMES
from mem.metrics.predictions import PredictionMetadata, Predictions


def split_scores(predictions: Predictions, about: PredictionMetadata) -> dict[str, Any]:
    """Return the scores as JSON data. Accuracies and calibration errors are in percent.

    A score over no images is None.
    """
    shots = np.asarray(about.shot_of_class, dtype=np.int64)
    labels, predicted, correct = predictions.labels, predictions.predictions, predictions.correct
    number = len(SHOT_NAMES)
    wrong = metrics.group_confusion(predicted[~correct], labels[~correct], shots, number)
    confusion = metrics.group_confusion(predicted, labels, shots, number)
    scores: dict[str, Any] = {
        "images": len(predictions),
        "accuracy": _percentages(metrics.shot_accuracy(predicted, labels, shots)),
        "per_class": [_percentage(v) for v in metrics.per_class_accuracy(predicted, labels, len(shots))],
        "wrong_by_group": wrong.tolist(),
        "interval": _intervals(metrics.bootstrap_shots(correct, labels, shots)),
        "top5": _percentage(metrics.top_k_accuracy(predictions.top, labels)),
        "balanced": _percentage(metrics.balanced_accuracy(predicted, labels, len(shots))),
        "ece": _percentage(metrics.expected_calibration_error(predictions.top_probabilities[:, 0], correct)),
        "by_group": confusion.tolist(),
        "group_recall": _percentages(dict(zip(SHOT_NAMES, metrics.group_recall(confusion), strict=True))),
        "oracle": _percentages(metrics.oracle_accuracy(predictions.best_in_shot, labels, shots)),
    }
    scores |= added_scores(predictions, about)
    if predictions.norms is not None and predictions.weights is not None and about.group_of_class is not None:
        scores |= _modulator(predictions.norms, predictions.weights, labels, about.group_of_class)
    if predictions.experts_used is not None:
        scores["experts_used"] = _mean_by_shot(predictions.experts_used, shots[labels])
    return scores


def _mean_by_shot(values: np.ndarray, shot_of_image: np.ndarray) -> dict[str, float | None]:
    """Return the mean over the images of each shot group, and over all images. A mean over no images is None."""
    parts = {name: values[shot_of_image == g] for g, name in enumerate(SHOT_NAMES)} | {"all": values}
    return {name: round(float(part.mean()), 4) if len(part) else None for name, part in parts.items()}


def added_scores(predictions: Predictions, about: PredictionMetadata) -> dict[str, Any]:
    """Return the scores that version 2 of the stage `evaluate` gained without a new version.

    They are computed from the predictions. The report computes them for evaluations that do not have them.
    """
    error = metrics.balanced_standard_error(predictions.correct, predictions.labels, len(about.shot_of_class))
    scores: dict[str, Any] = {"balanced_se": _percentage(error)}
    if about.group_of_class is not None:
        groups = np.asarray(about.group_of_class, dtype=np.int64)
        right = groups[predictions.predictions] == groups[predictions.labels]
        scores["group_by_class"] = _group_shares(right, predictions.labels, groups, "group by class")
    return scores


def _share(named: np.ndarray) -> float:
    return float(named.mean()) if len(named) else float("nan")


def scalars(scores: Mapping[str, Any]) -> dict[str, float]:
    """Return the scalar scores by the names that all stages use in logs. Undefined scores are omitted."""
    found = {**scores["accuracy"], "acc1": scores["accuracy"]["all"]}
    found |= {name: scores[name] for name in ("top5", "balanced", "ece")}
    found |= {f"oracle_{name}": value for name, value in scores["oracle"].items()}
    found |= {f"group_recall_{name}": value for name, value in scores["group_recall"].items()}
    found["balanced_se"] = scores["balanced_se"]
    found |= {name: scores[name]["all"] for name in ("group_by_norm", "group_by_class") if name in scores}
    found |= {f"experts_used_{name}": value for name, value in scores.get("experts_used", {}).items()}
    return {name: value for name, value in found.items() if value is not None}


def classes_without_images(predictions: Predictions, classes: int) -> list[int]:
    """Return the classes without images in the split. Their accuracy is undefined, and every mean excludes them."""
    return np.flatnonzero(np.bincount(predictions.labels, minlength=classes) == 0).tolist()


def _modulator(
    norms: np.ndarray, weights: np.ndarray, labels: np.ndarray, group_of_class: tuple[int, ...]
) -> dict[str, Any]:
    """Return how often the sub-network of the true group has the largest norm, and the mean norms and group weights.

    The groups are those of the MEM head's partition. In the matrices of means, rows are true groups and columns are
    sub-networks.
    """
    groups = np.asarray(group_of_class, dtype=np.int64)
    true_groups = groups[labels]
    return {
        "group_by_norm": _group_shares(metrics.group_by_norm(norms, true_groups), labels, groups, "group by norm"),
        "norms": _matrix(metrics.mean_by_group(norms, true_groups)),
        "weights": _matrix(metrics.mean_by_group(weights, true_groups)),
    }


def _group_shares(right: np.ndarray, labels: np.ndarray, groups: np.ndarray, stream: str) -> dict[str, Any]:
    """Return the share of images whose group is named correctly: of all, with its interval, and of each group.

    Args:
        right: Whether the group of each image is named correctly.
        labels: True classes.
        groups: Group of each class.
        stream: Name of the random stream of the interval.
    """
    true_groups = groups[labels]
    low, high = metrics.bootstrap_shots(right, labels, np.zeros(len(groups), dtype=np.int64), stream=stream)["all"]
    return {
        "all": _percentage(_share(right)),
        "interval": [_percentage(low), _percentage(high)],
        "by_group": [_percentage(_share(right[true_groups == g])) for g in range(int(groups.max()) + 1)],
    }


def _percentage(share: float) -> float | None:
    return None if np.isnan(share) else round(100 * float(share), 4)


def _percentages(shares: Mapping[str, float]) -> dict[str, float | None]:
    return {name: _percentage(share) for name, share in shares.items()}


def _intervals(intervals: Mapping[str, tuple[float, float]]) -> dict[str, list[float | None]]:
    return {name: [_percentage(low), _percentage(high)] for name, (low, high) in intervals.items()}


def _matrix(values: np.ndarray) -> list[list[float | None]]:
    return [[None if np.isnan(v) else round(float(v), 5) for v in row] for row in values]
