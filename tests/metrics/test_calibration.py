"""The expected calibration error, compared with a plain loop over the bins."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from mem import metrics

CONFIDENCES = npst.arrays(np.float64, st.integers(1, 60), elements=st.floats(0.0, 1.0))


@given(CONFIDENCES, st.integers(0, 99))
@settings(deadline=None)
def test_it_is_the_weighted_gap_between_accuracy_and_confidence(confidences, seed):
    correct = np.random.default_rng(seed).random(len(confidences)) < confidences
    edges = np.linspace(0, 1, 16)
    expected = 0.0
    for low, high in pairwise(edges):
        inside = [i for i, c in enumerate(confidences) if (low < c <= high) or (low == 0.0 == c)]
        if inside:
            gap = np.mean([correct[i] for i in inside]) - np.mean([confidences[i] for i in inside])
            expected += len(inside) / len(confidences) * abs(gap)
    assert metrics.expected_calibration_error(confidences, correct) == pytest.approx(expected, abs=1e-12)


def test_confident_predictions_are_calibrated_if_correct_and_not_if_wrong():
    confident = np.ones(10)
    assert metrics.expected_calibration_error(confident, np.ones(10, dtype=bool)) == 0
    assert metrics.expected_calibration_error(confident, np.zeros(10, dtype=bool)) == 1
    assert math.isnan(metrics.expected_calibration_error(np.zeros(0), np.zeros(0, dtype=bool)))
