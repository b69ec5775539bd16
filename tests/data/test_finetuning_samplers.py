"""Samplers of finetuning: sequences, frequencies and pairs of samples."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from mem.data.loading.finetuning_samplers import build_finetuning_sampler, skipped_classes_warning
from mem.data.loading.samplers import ClassBalancedSampler, InstanceSampler
from mem.longtail import class_counts

COUNTS = np.array([40, 17, 6, 1, 9])
LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(5), COUNTS))
TOTAL = 60_000
NAMES = ["instance", "class_balanced", "sqrt", "progressive"]


def build(name, labels=LABELS, seed=5, total=TOTAL):
    return build_finetuning_sampler(name, labels, seed, total)


@pytest.mark.parametrize("name", NAMES)
@given(start=st.integers(0, 3000), first=st.integers(1, 90), rest=st.integers(1, 90))
@settings(deadline=None, max_examples=20)
def test_samples_do_not_depend_on_how_the_sequence_is_divided(name, start, first, rest):
    whole = build(name).indices(0, start + first + rest)
    sampler = build(name)
    np.testing.assert_array_equal(sampler.indices(start + first, rest), whole[start + first :])
    np.testing.assert_array_equal(sampler.indices(start, first), whole[start : start + first])


def test_instance_sampling_is_that_of_all_other_stages():
    expected = InstanceSampler(len(LABELS), 5).indices(100, 300)
    np.testing.assert_array_equal(build("instance").indices(100, 300), expected)


def test_class_balanced_sampling_selects_one_image_of_every_class_per_round():
    labels = LABELS[build("class_balanced").indices(0, 5 * 200)]
    assert (np.sort(labels.reshape(-1, 5), axis=1) == np.arange(5)).all()
    assert len({tuple(round_) for round_ in labels.reshape(-1, 5)}) > 50


def test_class_balanced_sampling_selects_every_image_of_a_class_equally_often():
    rounds = 40 * 17 * 18  # a multiple of every class count
    counts = np.bincount(build("class_balanced").indices(0, 5 * rounds), minlength=len(LABELS))
    np.testing.assert_array_equal(counts, rounds // COUNTS[LABELS])


@pytest.mark.parametrize("classes", [2, 3, 4, 5, 7])
def test_class_balanced_pairs_are_of_different_classes(classes):
    labels = np.arange(3 * classes) % classes
    sampled = labels[build("class_balanced", labels).indices(0, 2 * 3000)]
    pairs = sampled.reshape(-1, 2)
    assert (pairs[:, 0] != pairs[:, 1]).all()
    if classes > 2:
        assert (sampled[1:] != sampled[:-1]).all()


def test_the_class_balanced_sequence_of_heads_does_not_change():
    indices = ClassBalancedSampler(np.repeat(np.arange(3), [5, 2, 1]), 3, 1).indices(100, 16)
    assert indices.tolist() == [7, 7, 7, 7, 4, 2, 3, 2, 7, 7, 7, 7, 4, 0, 1, 3]  # recorded before images_per_visit


@pytest.mark.parametrize("position", [0, 0.25, 0.5, 0.75, 1])
def test_progressive_sampling_moves_from_the_class_counts_to_equal_shares(position):
    window, total = 20_000, 10**9  # the probabilities hardly change within the window
    start = min(round(position * total), total - window)
    indices = build("progressive", total=total).indices(start, window)
    t = start / total
    expected = (1 - t) * COUNTS / COUNTS.sum() + t / 5
    assert chisquare(np.bincount(LABELS[indices], minlength=5), window * expected).pvalue > 1e-3
    per_image = (expected / COUNTS)[LABELS]
    assert chisquare(np.bincount(indices, minlength=len(LABELS)), window * per_image).pvalue > 1e-3


def test_progressive_sampling_moves_within_an_epoch():
    labels = LABELS[build("progressive").indices(0, TOTAL)]
    few = (labels == 3).reshape(6, -1).mean(axis=1)
    t = (np.arange(6) + 0.5) / 6
    np.testing.assert_allclose(few, (1 - t) / COUNTS.sum() + t / 5, atol=0.012)


@pytest.mark.parametrize("name", NAMES)
def test_classes_without_images_are_skipped_and_named(name):
    labels = np.where(LABELS == 2, 5, LABELS)
    sampled = labels[build(name, labels, total=600).indices(0, 700)]
    assert set(sampled) == {0, 1, 3, 4, 5}
    assert skipped_classes_warning(name, class_counts(labels, 7)) == (
        f"2 of 7 classes have no training images: 2, 6. The sampler `{name}` (finetune.sampler) skips classes without "
        "images. Add images."
    )


def test_there_is_no_warning_if_every_class_has_images():
    assert skipped_classes_warning("sqrt", COUNTS) is None


def test_an_unknown_sampler_is_an_error():
    with pytest.raises(ValueError, match="unknown sampler 'group_balanced'; expected instance"):
        build("group_balanced")
