"""Accuracy metrics, compared with scikit-learn and with plain loops."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix, top_k_accuracy_score

from mem import metrics
from mem.data.datasets.reference_counts import IMAGENET_LT, INATURALIST_2018, PLACES_LT
from tests.conftest import REPOSITORY

KNOWN = {"imagenet_lt": IMAGENET_LT, "inat18": INATURALIST_2018, "places_lt": PLACES_LT}
TABLE_1 = yaml.safe_load((REPOSITORY / "mem" / "report" / "paper.yaml").read_text())["table1"]
CLASSES = 6
GROUPS = np.array([0, 0, 1, 1, 2, 2])


@st.composite
def predictions_and_labels(draw):
    n = draw(st.integers(1, 60))
    classes = npst.arrays(np.int64, n, elements=st.integers(0, CLASSES - 1))
    return draw(classes), draw(classes)


@given(predictions_and_labels())
@settings(deadline=None)
def test_accuracy_per_class_equals_the_recall_of_scikit_learn(pair):
    predictions, labels = pair
    matrix = confusion_matrix(labels, predictions, labels=range(CLASSES))
    with np.errstate(invalid="ignore"):
        expected = matrix.diagonal() / matrix.sum(axis=1)
    np.testing.assert_allclose(metrics.per_class_accuracy(predictions, labels, CLASSES), expected)


@given(predictions_and_labels())
@settings(deadline=None)
def test_shot_accuracy_averages_over_classes_and_overall_accuracy_over_images(pair):
    predictions, labels = pair
    scores = metrics.shot_accuracy(predictions, labels, GROUPS)
    assert np.isclose(scores["all"], accuracy_score(labels, predictions))
    for g, shot in enumerate(("many", "medium", "few")):
        by_class = [np.mean(predictions[labels == k] == k) for k in np.flatnonzero(GROUPS == g) if (labels == k).any()]
        expected = np.mean(by_class) if by_class else np.nan
        np.testing.assert_allclose(scores[shot], expected)


def test_on_a_balanced_split_overall_accuracy_is_the_class_weighted_mean_of_the_shots():
    rng = np.random.default_rng(0)
    groups = np.array([0] * 5 + [1] * 3 + [2] * 2)
    labels = np.repeat(np.arange(10), 7)
    scores = metrics.shot_accuracy(rng.integers(0, 10, 70), labels, groups)
    weighted = (5 * scores["many"] + 3 * scores["medium"] + 2 * scores["few"]) / 10
    assert np.isclose(scores["all"], weighted)


@given(predictions_and_labels())
@settings(deadline=None)
def test_balanced_accuracy_equals_that_of_scikit_learn(pair):
    predictions, labels = pair
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some predicted classes have no images
        expected = balanced_accuracy_score(labels, predictions)
    assert np.isclose(metrics.balanced_accuracy(predictions, labels, CLASSES), expected)


@given(npst.arrays(np.float64, (23, CLASSES), elements=st.floats(-9, 9), unique=True), st.integers(0, 99))
@settings(deadline=None)
def test_top_k_accuracy_equals_that_of_scikit_learn(logits, seed):
    labels = np.random.default_rng(seed).integers(0, CLASSES, len(logits))
    top = np.argsort(-logits, axis=1)[:, :3]
    expected = top_k_accuracy_score(labels, logits, k=3, labels=range(CLASSES))
    assert np.isclose(metrics.top_k_accuracy(top, labels), expected)


@pytest.mark.parametrize("dataset", list(TABLE_1))
def test_the_papers_overall_accuracy_of_mem_follows_from_its_shots_with_exclusive_thresholds(dataset):
    *shots, total = TABLE_1[dataset]["mem"]
    groups = KNOWN[dataset].groups
    assert groups is not None
    # The paper rounds all values to one decimal place.
    assert metrics.class_weighted(shots, groups) == pytest.approx(total, abs=0.1)
