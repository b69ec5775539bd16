"""Calibration: whether a classifier is right as often as it says."""

from __future__ import annotations

import numpy as np

BINS = 15


def expected_calibration_error(confidences: np.ndarray, right: np.ndarray, bins: int = BINS) -> float:
    """Mean over equal-width bins of |accuracy - mean confidence|, weighted by their images; NaN without images.

    A bin holds the images whose confidence is above its lower edge and at most its upper one. Source: Guo et al. 2017,
    equation 3, with their 15 bins.

    Args:
        confidences: Probability of each image's predicted class.
        right: Whether the prediction is right.
        bins: How many.
    """
    if not len(confidences):
        return float("nan")
    edges = np.linspace(0, 1, bins + 1)
    places = np.clip(np.searchsorted(edges, confidences, side="left") - 1, 0, bins - 1)
    gaps = np.bincount(places, right.astype(np.float64) - confidences.astype(np.float64), minlength=bins)
    return float(np.abs(gaps).sum() / len(confidences))
