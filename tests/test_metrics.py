"""Metrics against scikit-learn and plain loops."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from sklearn.metrics import accuracy_score, confusion_matrix

from mem import metrics

CLASSES = 6
GROUPS = np.array([0, 0, 1, 1, 2, 2])


@st.composite
def answers(draw):
    n = draw(st.integers(1, 60))
    classes = npst.arrays(np.int64, n, elements=st.integers(0, CLASSES - 1))
    return draw(classes), draw(classes)


@given(answers())
@settings(deadline=None)
def test_accuracy_per_class_is_the_recall_of_scikit_learn(pair):
    predictions, labels = pair
    matrix = confusion_matrix(labels, predictions, labels=range(CLASSES))
    with np.errstate(invalid="ignore"):
        expected = matrix.diagonal() / matrix.sum(axis=1)
    np.testing.assert_allclose(metrics.per_class_accuracy(predictions, labels, CLASSES), expected)


@given(answers())
@settings(deadline=None)
def test_shot_accuracy_is_the_mean_over_classes_and_all_that_over_images(pair):
    predictions, labels = pair
    scores = metrics.shot_accuracy(predictions, labels, GROUPS)
    assert np.isclose(scores["all"], accuracy_score(labels, predictions))
    for g, shot in enumerate(("many", "medium", "few")):
        by_class = [np.mean(predictions[labels == k] == k) for k in np.flatnonzero(GROUPS == g) if (labels == k).any()]
        expected = np.mean(by_class) if by_class else np.nan
        np.testing.assert_allclose(scores[shot], expected)


def test_on_a_balanced_split_all_is_the_class_weighted_sum_of_the_shots():
    rng = np.random.default_rng(0)
    groups = np.array([0] * 5 + [1] * 3 + [2] * 2)
    labels = np.repeat(np.arange(10), 7)
    scores = metrics.shot_accuracy(rng.integers(0, 10, 70), labels, groups)
    weighted = (5 * scores["many"] + 3 * scores["medium"] + 2 * scores["few"]) / 10
    assert np.isclose(scores["all"], weighted)


@given(answers())
@settings(deadline=None)
def test_group_confusion_counts_pairs_of_groups(pair):
    predictions, labels = pair
    expected = confusion_matrix(GROUPS[labels], GROUPS[predictions], labels=range(3))
    np.testing.assert_array_equal(metrics.group_confusion(predictions, labels, GROUPS, 3), expected)
