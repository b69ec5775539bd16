"""Results of a synthetic study with predictions, from which the sections about classes and images are computed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mem.metrics.predictions import PREDICTIONS_FILE, PredictionMetadata, Predictions, write_predictions
from mem.metrics.scores import split_scores
from mem.report.collect import StudyResults
from mem.report.results import ScoreRow

COUNTS = (200, 120, 50, 30, 10, 4)
"""Training images of the classes."""
SHOTS = (0, 0, 1, 1, 2, 2)
NAMES = ("ant", "bee", "cat", "dog", "eel", "fox")
PER_CLASS = 10
"""Test images of each class."""


def predictions_of(labels: np.ndarray, predicted: np.ndarray, names: list[str] | None = None) -> Predictions:
    """Return predictions of the classes `predicted`, all with probability 0.6."""
    top = np.stack([predicted, (predicted + 1) % len(COUNTS)], axis=1)
    return Predictions(
        labels=labels,
        predictions=predicted,
        top=top,
        top_probabilities=np.tile(np.array([0.6, 0.4], dtype=np.float32), (len(labels), 1)),
        best_in_shot=np.stack([predicted] * 3, axis=1),
        names=names,
    )


def study_results(
    folder: Path,
    errors: dict[str, float],
    repeats: tuple[tuple[int, int], ...] = ((0, 0),),
    splits: tuple[str, ...] = ("val", "test"),
) -> StudyResults:
    """Write the predictions of methods with the given shares of errors, and return the results of the study.

    Args:
        folder: Folder of the files.
        errors: Share of wrong predictions of each method.
        repeats: Class orders and seeds.
        splits: The splits of the scores.
    """
    results = StudyResults()
    labels = np.tile(np.arange(len(COUNTS)), PER_CLASS)
    for variant, share in errors.items():
        for order, seed in repeats:
            random = np.random.default_rng([order, seed, len(variant)])
            wrong = random.random(len(labels)) < share
            predicted = np.where(wrong, (labels + random.integers(1, 3, len(labels))) % len(COUNTS), labels)
            split = predictions_of(labels, predicted, [f"{NAMES[k]}/{i}.png" for i, k in enumerate(labels.tolist())])
            about = PredictionMetadata("d", variant, "key", "many>100 few<20", SHOTS)
            path = folder / f"{variant}-{order}-{seed}"
            path.mkdir(parents=True)
            write_predictions(path / PREDICTIONS_FILE, about, {"test": split})
            results.evaluations[variant, order, seed] = path
            scores = split_scores(split, about)
            accuracies = np.array(scores["per_class"], dtype=np.float64)
            results.class_accuracies.setdefault((variant, order), []).append(accuracies)
            results.training_images[order] = np.array(COUNTS)
            results.rows += [_row(variant, order, seed, name, scores) for name in splits]
            counts = np.asarray(scores["wrong_by_group"], dtype=np.float64)
            results.wrong_counts[variant] = results.wrong_counts.get(variant, 0) + counts
            images = np.asarray(scores["by_group"], dtype=np.float64).sum(axis=1)
            results.shot_images[variant] = results.shot_images.get(variant, 0) + images
    return results


def _row(variant: str, order: int, seed: int, split: str, scores: dict[str, Any]) -> ScoreRow:
    return ScoreRow(
        study="s", dataset="d", backbone="b", method=variant.partition("_")[0], variant=variant, seed=seed, order=order,
        split=split, thresholds="many>100 few<20", **scores["accuracy"], key="k", balanced=scores["balanced"],
        ece=scores["ece"],
    )  # fmt: skip


def manifest(val: tuple[int, ...] = (5,) * len(COUNTS)) -> dict[str, Any]:
    """Return the recorded results of a convert run."""
    return {"classes": list(NAMES), "splits": {"val": {"images": sum(val), "counts": list(val)}}}
