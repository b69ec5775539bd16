"""Differences between methods over the test images of one run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from mem.metrics import holm, mcnemar, paired_bootstrap_shots, shot_accuracy
from mem.metrics.predictions import read_predictions, require_same_images
from mem.report.differences import format_p_value, format_signed
from mem.report.results import SHOTS


def image_difference_table(folders: Mapping[str, Path], reference: str, order: Iterable[str]) -> list[list[str]]:
    """Return a table of differences over the test images of one run.

    Intervals are 95 % bootstrap intervals; p-values are from McNemar's test.

    Args:
        folders: Folder of the evaluate run by variant.
        reference: The variant that is subtracted.
        order: The variants, in the order of the table's lines.

    Raises:
        UserError: Predictions are missing or are for different images.
    """
    about, splits = read_predictions(folders[reference] / "predictions.parquet")
    reference_predictions = splits["test"]
    labels = reference_predictions.labels
    shots = np.asarray(about.shot_of_class)
    reference_accuracy = shot_accuracy(reference_predictions.predictions, labels, shots)
    variants = [variant for variant in order if variant in folders and variant != reference]
    cells: list[list[str]] = []
    p_values: list[float] = []
    for variant in variants:
        predictions = read_predictions(folders[variant] / "predictions.parquet")[1]["test"]
        require_same_images(predictions, reference_predictions, (folders[variant], folders[reference]))
        accuracy = shot_accuracy(predictions.predictions, predictions.labels, shots)
        bounds = paired_bootstrap_shots(predictions.correct, reference_predictions.correct, labels, shots)
        cells.append([_format_bounded(accuracy[shot] - reference_accuracy[shot], bounds[shot]) for shot in SHOTS])
        p_values.append(mcnemar(predictions.correct, reference_predictions.correct)[2])
    lines = [[f"minus {reference}", *SHOTS, "p", "p, adjusted"]]
    for variant, differences, p, adjusted_p in zip(variants, cells, p_values, holm(p_values), strict=True):
        lines.append([variant, *differences, format_p_value(p), format_p_value(adjusted_p)])
    return lines


def _format_bounded(difference: float, bounds: tuple[float, float]) -> str:
    """Format a difference between two proportions in percentage points, with the bounds of its interval."""
    if np.isnan(difference):
        return "-"
    low, high = (format_signed(100 * bound) for bound in bounds)
    return f"{format_signed(100 * difference)} ({low} to {high})"
