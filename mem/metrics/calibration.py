"""Calibration: how well a classifier's confidence matches its accuracy."""

from __future__ import annotations

import numpy as np

BINS = 15


def expected_calibration_error(confidences: np.ndarray, correct: np.ndarray, bins: int = BINS) -> float:
    """Return the expected calibration error; NaN without images.

    The error is the mean of |accuracy - mean confidence| over bins of equal width, weighted by the number of images in
    each bin. A bin contains the images whose confidence is above its lower edge and at most its upper edge. Source:
    Guo et al. 2017, equation 3. The default number of bins is the one in their experiments.

    Args:
        confidences: Probability of each image's predicted class.
        correct: Whether each prediction is correct.
        bins: Number of bins.
    """
    if not len(confidences):
        return float("nan")
    edges = np.linspace(0, 1, bins + 1)
    bin_of_image = np.clip(np.searchsorted(edges, confidences, side="left") - 1, 0, bins - 1)
    gaps = np.bincount(bin_of_image, correct.astype(np.float64) - confidences.astype(np.float64), minlength=bins)
    return float(np.abs(gaps).sum() / len(confidences))
