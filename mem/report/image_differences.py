"""Differences between methods over the test images of one run."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from pathlib import Path

import numpy as np

from mem.metrics import mcnemar, paired_bootstrap_shots, shot_accuracy
from mem.metrics.predictions import read_predictions, require_same_images
from mem.report.differences import format_p_value, format_signed, holm_over_distinct
from mem.report.results import SHOTS


def image_difference_table(folders: Mapping[str, Path], reference: str, order: Iterable[str]) -> list[list[str]]:
    """Return a table of differences over the test images of one run.

    Intervals are 95 % bootstrap intervals; p-values are from McNemar's test. Methods with equal predictions are one
    hypothesis in Holm's correction.

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
    p_of: dict[str, float] = {}
    identity_of: dict[str, Hashable] = {reference: reference_predictions.predictions.tobytes()}
    for variant in variants:
        predictions = read_predictions(folders[variant] / "predictions.parquet")[1]["test"]
        require_same_images(predictions, reference_predictions, (folders[variant], folders[reference]))
        accuracy = shot_accuracy(predictions.predictions, predictions.labels, shots)
        bounds = paired_bootstrap_shots(predictions.correct, reference_predictions.correct, labels, shots)
        cells.append([_format_bounded(accuracy[shot] - reference_accuracy[shot], bounds[shot]) for shot in SHOTS])
        p_of[variant] = mcnemar(predictions.correct, reference_predictions.correct)[2]
        identity_of[variant] = predictions.predictions.tobytes()
    lines = [[f"minus {reference}", *SHOTS, "p", "p, adjusted"]]
    adjusted = holm_over_distinct(p_of, identity_of, reference)
    for (variant, p), differences in zip(p_of.items(), cells, strict=True):
        lines.append([variant, *differences, format_p_value(p), format_p_value(adjusted[variant])])
    return lines


def _format_bounded(difference: float, bounds: tuple[float, float]) -> str:
    """Format a difference between two proportions in percentage points, with the bounds of its interval."""
    if np.isnan(difference):
        return "-"
    low, high = (format_signed(100 * bound) for bound in bounds)
    return f"{format_signed(100 * difference)} ({low} to {high})"
