"""Predictions on test of two methods in every run, for the sections about single images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from mem.metrics.predictions import PREDICTIONS_FILE, Predictions, read_predictions, require_same_images
from mem.report.chosen_methods import ChosenMethods
from mem.report.collect import StudyResults


@dataclass(frozen=True)
class RunPredictions:
    """Predictions of the focus and of the baseline on the test images of one class order and seed."""

    order: int
    seed: int
    shots: Int64[np.ndarray, " classes"]
    """Shot group of each class: 0 many, 1 medium, 2 few."""
    focus: Predictions
    baseline: Predictions | None


def run_predictions(results: StudyResults, chosen: ChosenMethods) -> Iterator[RunPredictions]:
    """Read the predictions of each run, in the order of class orders and seeds.

    Raises:
        UserError: Predictions are missing or damaged, or the two methods have predictions for different images.
    """
    repeats = sorted((order, seed) for variant, order, seed in results.evaluations if variant == chosen.focus)
    for order, seed in repeats:
        folder = results.evaluations[chosen.focus, order, seed]
        about, splits = read_predictions(folder / PREDICTIONS_FILE)
        other = results.evaluations.get((chosen.baseline, order, seed)) if chosen.baseline else None
        baseline = None if other is None else read_predictions(other / PREDICTIONS_FILE)[1]["test"]
        if baseline is not None:
            require_same_images(splits["test"], baseline, (folder, other))
        yield RunPredictions(order, seed, np.asarray(about.shot_of_class), splits["test"], baseline)
