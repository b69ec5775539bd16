"""Scores at a grid of temperatures, compared with an independent NumPy version."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import logsumexp, softmax

from mem import metrics
from mem.heads.temperature import TEMPERATURES, TemperatureScores, calibration_record


def scores_of(logits: np.ndarray, labels: np.ndarray, batch: int = 64) -> dict:
    added = TemperatureScores()
    for start in range(0, len(labels), batch):
        added.add(torch.from_numpy(logits[start : start + batch]), labels[start : start + batch])
    return added.scores()


def overconfident(images: int = 150, classes: int = 7) -> tuple[np.ndarray, np.ndarray]:
    """Return logits that are three times those of the distribution that the labels are drawn from, and the labels."""
    random = np.random.default_rng(0)
    logits = random.normal(scale=1.5, size=(images, classes))
    drawn = softmax(logits, axis=1).cumsum(axis=1)
    labels = (random.random((images, 1)) > drawn[:, :-1]).sum(axis=1)
    return (3 * logits).astype(np.float32), labels


def test_the_temperatures_are_a_geometric_grid_that_contains_one():
    ratios = np.array(TEMPERATURES[1:]) / np.array(TEMPERATURES[:-1])
    np.testing.assert_allclose(ratios, 2 ** (1 / 8), rtol=1e-12)
    assert 1.0 in TEMPERATURES
    assert TEMPERATURES[0] < 0.07
    assert TEMPERATURES[-1] == 16


def test_losses_and_errors_are_those_of_the_softmax_of_divided_logits():
    logits, labels = overconfident()
    found = scores_of(logits, labels)
    for position, temperature in enumerate(TEMPERATURES):
        scaled = logits.astype(np.float64) / temperature
        loss = (logsumexp(scaled, axis=1) - scaled[np.arange(len(labels)), labels]).mean()
        probabilities = softmax(scaled, axis=1)
        error = metrics.expected_calibration_error(probabilities.max(axis=1), probabilities.argmax(axis=1) == labels)
        assert found["nll"][position] == pytest.approx(loss, rel=1e-4, abs=1e-5)
        # A confidence on the edge of a bin can be in the other bin after rounding.
        assert found["ece"][position] == pytest.approx(100 * error, abs=0.2)


def test_the_smallest_loss_is_at_the_temperature_by_which_the_logits_are_too_large():
    found = scores_of(*overconfident(2000))
    best = int(np.argmin(found["nll"]))
    assert 2.4 < TEMPERATURES[best] < 3.7
    assert found["ece"][best] < 4 < found["ece"][TEMPERATURES.index(1.0)]


def test_the_loss_of_a_class_that_is_never_predicted_is_infinite():
    logits = np.array([[1.0, -np.inf, 0.0], [2.0, -np.inf, 0.0]], dtype=np.float32)
    assert scores_of(logits, np.array([0, 1]))["nll"] == [None] * len(TEMPERATURES)
    finite = scores_of(logits, np.array([0, 2]))
    assert None not in finite["nll"]
    assert np.isfinite(finite["ece"]).all()


def test_the_record_has_the_scores_of_each_split():
    added = TemperatureScores()
    added.add(torch.zeros(2, 3), np.array([0, 1]))
    record = calibration_record({"val": added, "test": added})
    assert len(record["temperatures"]) == len(TEMPERATURES) == len(record["splits"]["test"]["nll"])
    assert set(record["splits"]) == {"val", "test"}
    assert record["splits"]["val"]["nll"] == pytest.approx([np.log(3)] * len(TEMPERATURES), abs=1e-6)
