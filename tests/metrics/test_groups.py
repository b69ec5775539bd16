"""Metrics for class groups: confusion, recall, oracle accuracy, and MEM's norms."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix, recall_score

from mem import metrics
from tests.metrics.test_accuracy import CLASSES, GROUPS, predictions_and_labels


@given(predictions_and_labels())
@settings(deadline=None)
def test_group_confusion_counts_pairs_of_groups(pair):
    predictions, labels = pair
    expected = confusion_matrix(GROUPS[labels], GROUPS[predictions], labels=range(3))
    np.testing.assert_array_equal(metrics.group_confusion(predictions, labels, GROUPS, 3), expected)


@given(predictions_and_labels())
@settings(deadline=None)
def test_group_recall_equals_that_of_scikit_learn_on_groups(pair):
    predictions, labels = pair
    confusion = metrics.group_confusion(predictions, labels, GROUPS, 3)
    expected = recall_score(GROUPS[labels], GROUPS[predictions], labels=range(3), average=None, zero_division=np.nan)
    np.testing.assert_allclose(metrics.group_recall(confusion), expected)


@given(st.integers(0, 10_000), st.integers(1, 40))
@settings(deadline=None)
def test_the_oracle_is_the_argmax_over_the_classes_of_the_true_group(seed, images):
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(images, CLASSES))
    labels = generator.integers(0, CLASSES, images)
    masked = np.where(GROUPS[labels][:, None] == GROUPS[None], logits, -np.inf)
    expected = metrics.shot_accuracy(masked.argmax(axis=1), labels, GROUPS)
    found = metrics.oracle_accuracy(metrics.best_in_group(logits, GROUPS, 3), labels, GROUPS)
    np.testing.assert_equal(found, expected)
    plain = metrics.shot_accuracy(logits.argmax(axis=1), labels, GROUPS)
    assert all(np.isnan(found[shot]) or found[shot] >= plain[shot] for shot in found)


def test_a_group_without_classes_has_no_best_class():
    groups = np.array([0, 0, 2])
    best = metrics.best_in_group(np.array([[1.0, 2.0, 0.5]]), groups, 3)
    assert best.tolist() == [[1, -1, 2]]


@given(st.integers(0, 10_000), st.integers(1, 40))
@settings(deadline=None)
def test_norms_are_averaged_over_the_images_of_each_group(seed, images):
    generator = np.random.default_rng(seed)
    norms, true_groups = generator.random((images, 3)), generator.integers(0, 3, images)
    found = metrics.mean_by_group(norms, true_groups)
    for g in range(3):
        members = [norms[i] for i in range(images) if true_groups[i] == g]
        np.testing.assert_allclose(found[g], np.mean(members, axis=0) if members else [np.nan] * 3)
    named = metrics.group_by_norm(norms, true_groups)
    assert named.tolist() == [max(range(3), key=lambda g: norms[i, g]) == true_groups[i] for i in range(images)]
