"""Collect the results of a study. Every evaluation is read only once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mem.errors import UserError
from mem.report.evaluation import read_evaluation
from mem.report.results import ScoreRow, score_rows
from mem.runs.dag import SELECT


@dataclass
class StudyResults:
    """Scores from all evaluations of a study. Error counts are summed over a variant's runs; norms are averaged."""

    rows: list[ScoreRow] = field(default_factory=list)
    wrong_counts: dict[str, np.ndarray] = field(default_factory=dict)
    """For each variant: number of misclassified test images by true (rows) and predicted (columns) shot group."""
    shot_images: dict[str, np.ndarray] = field(default_factory=dict)
    """For each variant: number of test images of each shot group, summed over runs as `wrong_counts`."""
    mean_norms: dict[str, np.ndarray] = field(default_factory=dict)
    """For each MEM variant: mean norm on test, as a matrix (true group, sub-network)."""
    evaluations: dict[tuple[str, int, int], Path] = field(default_factory=dict)
    """Folder of the evaluate run of each (variant, class order, seed)."""
    image_intervals: dict[tuple[str, int, int], Mapping[str, tuple[float, float]]] = field(default_factory=dict)
    """95 % interval of the accuracy on test, by shot group, of each (variant, class order, seed), in percent. It covers
    the sampling of the test images only; NaN without images."""
    class_accuracies: dict[tuple[str, int], list[np.ndarray]] = field(default_factory=dict)
    """For each variant and class order: the accuracy of each class on test in percent, of each seed. NaN without test
    images."""
    training_images: dict[int, np.ndarray] = field(default_factory=dict)
    """For each class order: number of training images of each class, before a holdout."""
    temperatures: Sequence[float] = ()
    """The temperatures of `calibration`. Empty if every evaluation is of an earlier version."""
    calibration: dict[tuple[str, int, int], dict[str, Mapping[str, Any]]] = field(default_factory=dict)
    """For each (variant, class order, seed) and split: `nll` and `ece` at each temperature."""

    def error_shares(self, variants: Iterable[str]) -> dict[str, np.ndarray]:
        """Return how errors are distributed over shot groups, as in the paper's figure 1a.

        Row i contains the percentages of the misclassified test images of shot group i that were predicted as each
        shot group. Rows sum to 100.
        """
        with np.errstate(invalid="ignore"):
            return {
                variant: 100 * self.wrong_counts[variant] / self.wrong_counts[variant].sum(axis=1, keepdims=True)
                for variant in variants
            }


def collect(study: str, evaluations: Iterable[tuple[Mapping[str, Any], Path]]) -> StudyResults:
    """Read the evaluate runs of a study.

    With `selection`, each head has two evaluations: the branch `select` contributes the scores on val, and the branch
    `refit` those on test.

    Args:
        study: Name of the study.
        evaluations: This study's labels for each run, and the run's folder. The labels in `run.json` are not used,
            because studies share runs and `run.json` contains the labels of the study that created the run.

    Raises:
        UserError: An evaluation is unfinished or damaged, or the evaluations use different datasets.
    """
    results = StudyResults()
    first: dict[tuple[int, str | None], tuple[Path, object]] = {}
    norms: dict[str, list[np.ndarray]] = {}
    for labels, folder in evaluations:
        record, metrics = read_evaluation(folder)
        branch = labels.get("branch")
        _require_split(folder, metrics, "val" if branch == SELECT else "test")
        current = (folder, _data_summary(metrics))
        _check_same_data(first.setdefault((labels["order"], branch), current), current)
        results.rows += score_rows(study, [({**record, "labels": labels}, metrics)])
        _add_calibration(results, labels, metrics)
        if branch == SELECT:
            continue
        variant, test = labels["variant"], metrics["splits"]["test"]
        run = variant, labels["order"], labels["seed"]
        results.evaluations[run] = folder
        results.image_intervals[run] = _image_intervals(metrics)
        _add_classes(results, labels, metrics)
        counts = np.asarray(test["wrong_by_group"], dtype=np.float64)
        results.wrong_counts[variant] = results.wrong_counts.get(variant, 0) + counts
        if (by_group := test.get("by_group")) is not None:
            images = np.asarray(by_group, dtype=np.float64).sum(axis=1)
            results.shot_images[variant] = results.shot_images.get(variant, 0) + images
        if "norms" in test:
            norms.setdefault(variant, []).append(np.array(test["norms"], dtype=np.float64))
    datasets = sorted({row.dataset for row in results.rows})
    if len(datasets) > 1:
        raise UserError(
            f"The evaluations of study {study} are of several datasets: {', '.join(datasets)}. A report covers one "
            f"dataset. Delete the folders of the wrong evaluations and run the workflow."
        )
    results.mean_norms = {variant: np.mean(matrices, axis=0) for variant, matrices in norms.items()}
    return results


def _image_intervals(metrics: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """Return the intervals over the test images by shot group; nothing for those of an earlier version without strata.

    They would be compared with intervals of another method, and described as such.
    """
    intervals = metrics["splits"]["test"].get("interval", {}) if "interval_strata" in metrics else {}
    return {
        shot: (math.nan if low is None else low, math.nan if high is None else high)
        for shot, (low, high) in intervals.items()
    }


def _add_calibration(results: StudyResults, labels: Mapping[str, Any], metrics: Mapping[str, Any]) -> None:
    """Add the scores at several temperatures. With `selection`, val and test are those of the two branches."""
    if (calibration := metrics.get("calibration")) is not None:
        results.temperatures = calibration["temperatures"]
        scores = results.calibration.setdefault((labels["variant"], labels["order"], labels["seed"]), {})
        scores.update(calibration["splits"])


def _add_classes(results: StudyResults, labels: Mapping[str, Any], metrics: Mapping[str, Any]) -> None:
    """Add the accuracy of each class on test, and its number of training images."""
    counts = metrics.get("counts_before_holdout", metrics["class_counts"])
    results.training_images[labels["order"]] = np.asarray(counts, dtype=np.int64)
    if (by_class := metrics["splits"]["test"].get("per_class")) is not None:
        accuracies = np.array([math.nan if value is None else value for value in by_class], dtype=np.float64)
        results.class_accuracies.setdefault((labels["variant"], labels["order"]), []).append(accuracies)


def _require_split(folder: Path, metrics: Mapping[str, Any], split: str) -> None:
    """Check that an evaluation has scores of the split that its branch contributes."""
    if split not in metrics["splits"]:
        raise UserError(
            f"{folder / 'metrics.json'} is damaged: splits.{split}: Field required. To evaluate again, delete "
            f"{folder / 'run.json'} and run the workflow."
        )


def _data_summary(metrics: Mapping[str, Any]) -> tuple[list[int], dict[str, int]]:
    """Return the numbers of training images per class and of images per split, which identify the data."""
    return metrics["class_counts"], {name: scores["images"] for name, scores in metrics["splits"].items()}


def _check_same_data(first: tuple[Path, Any], other: tuple[Path, Any]) -> None:
    """Check that two evaluations of one class order used the same images."""
    if first[1] != other[1]:
        raise UserError(
            f"{_describe_data(*first)}, but {_describe_data(*other)}. They use different datasets or class orders, "
            f"but a report requires the same images for all heads. Delete the folder of the wrong evaluation and run "
            f"the workflow."
        )


def _describe_data(folder: Path, data: tuple[list[int], dict[str, int]]) -> str:
    class_counts, split_sizes = data
    sizes = " and ".join(f"{number:,} images of {split}" for split, number in split_sizes.items())
    return (
        f"{folder / 'metrics.json'} has {len(class_counts):,} classes, {sum(class_counts):,} training images, and "
        f"scores of {sizes}"
    )
