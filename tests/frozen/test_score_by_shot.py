"""Scores by shot group through the Python API."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mem import config, frozen
from mem.errors import UserError
from mem.frozen import fit_head, score_by_shot
from tests.frozen.test_fit_head import COUNTS, make_features, quick

TRAIN = np.repeat(np.arange(len(COUNTS)), COUNTS)


def test_groups_are_defined_by_the_training_counts_and_scores_by_the_scored_images():
    labels = np.array([0, 0, 0, 0, 1, 1, 2, 3, 4, 5])
    predictions = np.array([0, 0, 0, 1, 1, 0, 2, 2, 4, 4])
    scores = score_by_shot(predictions, labels, TRAIN)
    assert scores.group_of_class == ("many", "many", "medium", "medium", "few", "few")
    assert scores.many == pytest.approx((3 / 4 + 1 / 2) / 2)  # mean over classes, not over images
    assert (scores.medium, scores.few) == (0.5, 0.5)
    assert scores.all == pytest.approx(6 / 10)
    assert scores.balanced == pytest.approx((3 / 4 + 1 / 2 + 1 + 0 + 1 + 0) / 6)


def test_thresholds_and_any_integer_arrays_are_accepted():
    labels, predictions = torch.tensor([0, 1, 2]), [0, 1, 0]
    scores = score_by_shot(predictions, labels, TRAIN.astype(np.int32), shots=config.Shots(many_above=115))
    assert scores.group_of_class[:3] == ("many", "medium", "medium")
    assert (scores.many, scores.medium) == (1.0, 0.5)
    assert math.isnan(scores.few)


def test_the_scores_are_those_of_a_fitted_head():
    features, labels = make_features()
    head = fit_head(quick("ncm"), features, labels, quiet=True)
    held_out, truth = make_features(seed=2)
    scores = score_by_shot(head.predict(held_out), truth, labels)
    assert scores.all == pytest.approx(float((head.predict(held_out).numpy() == truth).mean()))
    assert {"score_by_shot", "ShotScores"} <= set(frozen.__all__)


@pytest.mark.parametrize(
    ("predictions", "labels", "train", "expected"),
    [
        (np.zeros((3, 6)), np.zeros(3, int), TRAIN, r"predictions: shape \(3, 6\) and type float64.*one class number"),
        (np.zeros(3), np.zeros(3, int), TRAIN, "predictions: .*FittedHead.predict"),
        (np.zeros(2, int), np.zeros(3, int), TRAIN, r"predictions: shape \(2,\) .* for labels of shape \(3,\)"),
        (np.array([0, 9]), np.array([0, 1]), TRAIN, "predictions: image 1 has label 9, but train has 6 classes"),
        (np.array([0, 1]), np.array([0, -1]), TRAIN, "labels: image 1 has label -1"),
        (np.array([0]), np.array([0]), np.array([0, 2]), "train_labels: class 1 has no training images"),
        (np.array([0]), np.array([0]), np.array([], int), "train_labels: there are no labels"),
        (np.array([], int), np.array([], int), TRAIN, "there are no images to score"),
    ],
)
def test_predictions_and_labels_that_do_not_match_are_refused(predictions, labels, train, expected):
    with pytest.raises(UserError, match=expected):
        score_by_shot(predictions, labels, train)
