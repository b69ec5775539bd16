"""Differences between methods over the test images of one run."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mem.metrics import mcnemar, paired_bootstrap_shots, shot_accuracy
from mem.metrics.predictions import PREDICTIONS_FILE, read_predictions, require_same_images
from mem.report.differences import format_p_value, format_signed, holm_over_distinct
from mem.report.results import SHOTS


@dataclass(frozen=True)
class ImageDifference:
    """The accuracy of a method minus that of a reference on the same images, as shares from -1 to 1."""

    means: Mapping[str, float]
    """Difference by shot group; NaN without images."""
    bounds: Mapping[str, tuple[float, float]]
    """95 % bootstrap interval by shot group; NaN without images."""
    p: float
    """p-value of McNemar's test over all images."""
    adjusted_p: float
    """p-value adjusted for the number of methods by Holm's method."""


def image_differences(folders: Mapping[str, Path], reference: str, order: Iterable[str]) -> dict[str, ImageDifference]:
    """Return the differences from a reference over the test images of one run.

    Intervals are 95 % bootstrap intervals; p-values are from McNemar's test. Methods with equal predictions are one
    hypothesis in Holm's correction.

    Args:
        folders: Folder of the evaluate run by variant.
        reference: The variant that is subtracted.
        order: The variants, in the order of the result.

    Raises:
        UserError: Predictions are missing or are for different images.
    """
    about, splits = read_predictions(folders[reference] / PREDICTIONS_FILE)
    reference_predictions = splits["test"]
    labels = reference_predictions.labels
    shots = np.asarray(about.shot_of_class)
    reference_accuracy = shot_accuracy(reference_predictions.predictions, labels, shots)
    variants = [variant for variant in order if variant in folders and variant != reference]
    found: dict[str, tuple[dict[str, float], dict[str, tuple[float, float]]]] = {}
    p_of: dict[str, float] = {}
    identity_of: dict[str, Hashable] = {reference: reference_predictions.predictions.tobytes()}
    for variant in variants:
        predictions = read_predictions(folders[variant] / PREDICTIONS_FILE)[1]["test"]
        require_same_images(predictions, reference_predictions, (folders[variant], folders[reference]))
        accuracy = shot_accuracy(predictions.predictions, predictions.labels, shots)
        bounds = paired_bootstrap_shots(predictions.correct, reference_predictions.correct, labels, shots)
        found[variant] = ({shot: accuracy[shot] - reference_accuracy[shot] for shot in SHOTS}, bounds)
        p_of[variant] = mcnemar(predictions.correct, reference_predictions.correct)[2]
        identity_of[variant] = predictions.predictions.tobytes()
    adjusted = holm_over_distinct(p_of, identity_of, reference)
    return {
        variant: ImageDifference(means, bounds, p_of[variant], adjusted[variant])
        for variant, (means, bounds) in found.items()
    }


def image_difference_table(folders: Mapping[str, Path], reference: str, order: Iterable[str]) -> list[list[str]]:
    """Return the result of `image_differences` as a table."""
    lines = [[f"minus {reference}", *SHOTS, "p", "p, adjusted"]]
    for variant, difference in image_differences(folders, reference, order).items():
        cells = [_format_bounded(difference.means[shot], difference.bounds[shot]) for shot in SHOTS]
        p_values = (difference.p, difference.adjusted_p)
        lines.append([variant, *cells, *map(format_p_value, p_values)])
    return lines


def _format_bounded(difference: float, bounds: tuple[float, float]) -> str:
    """Format a difference between two proportions in percentage points, with the bounds of its interval."""
    if np.isnan(difference):
        return "-"
    low, high = (format_signed(100 * bound) for bound in bounds)
    return f"{format_signed(100 * difference)} ({low} to {high})"
