"""Comparison of RandAugment with timm and of colour jitter with torchvision."""

from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise

import numpy as np
import torch
from PIL import Image
from timm.data import auto_augment
from torchvision.transforms import ColorJitter

from mem import rng
from mem.data.augment import color, rand_augment
from tests.data.test_pixel_ops import FILL, RECIPE, photo_like

SAMPLES = 6000
NAMES = tuple(rand_augment.OPERATIONS)


def ours() -> rand_augment.SampledOperations:
    width = RECIPE.layers * rand_augment.UNIFORMS_PER_LAYER
    return rand_augment.sample_operations(rng.uniforms(0, "rand augment", 0, SAMPLES, width), RECIPE)


def theirs(monkeypatch) -> list[tuple[str, float]]:
    """Return the names and magnitudes of the operations that timm applies to the same number of images."""
    random.seed(0)
    np.random.seed(0)
    transform = auto_augment.rand_augment_transform("rand-m9-mstd0.5-inc1", {"img_mean": FILL})
    applied: list[tuple[str, float]] = []
    for operation in transform.ops:
        level = operation.level_fn

        def record(magnitude, hparams, *, name=operation.name, level=level):
            applied.append((name.replace("Increasing", "").replace("Rel", ""), magnitude))
            return level(magnitude, hparams) if level else ()

        operation.level_fn = record
        operation.aug_fn = lambda image, *_, **__: image
    for _ in range(SAMPLES):
        transform(None)
    return applied


def test_operations_and_magnitudes_are_distributed_like_timms(monkeypatch):
    chosen, applied = ours(), theirs(monkeypatch)
    our_counts = Counter(NAMES[k] for k in chosen.operations[chosen.applied])
    their_counts = Counter(name for name, _ in applied)
    assert our_counts.keys() == their_counts.keys() == set(NAMES)
    for name in NAMES:
        # Both counts are binomial with a mean of about 400. The limit is five standard deviations of their difference.
        assert abs(our_counts[name] - their_counts[name]) < 5 * (2 * SAMPLES * RECIPE.layers / 30) ** 0.5, name
    magnitudes = np.array([magnitude for _, magnitude in applied])
    for quantile in (0.01, 0.1, 0.5, 0.9, 0.95):
        found = np.quantile(chosen.magnitudes[chosen.applied], quantile)
        assert abs(found - np.quantile(magnitudes, quantile)) < 0.06, quantile
    assert chosen.magnitudes.max() == 10 == magnitudes.max()
    assert abs(chosen.signs.mean()) < 0.05


def test_layers_are_applied_independently_of_each_other():
    counts = np.bincount(ours().applied.sum(axis=1), minlength=3) / SAMPLES
    assert np.abs(counts - [0.25, 0.5, 0.25]).max() < 0.03


def test_the_magnitude_of_a_uniform_number_of_zero_is_finite():
    chosen = rand_augment.sample_operations(np.zeros((1, 8)), RECIPE)
    assert np.isfinite(chosen.magnitudes).all()


def test_layers_are_applied_in_sequence():
    numbers = np.array([[2.5 / 15, 0.1, 0.5, 0.1, 6.5 / 15, 0.1, 0.5, 0.1]])  # selects Invert, then SolarizeAdd
    image = photo_like()
    found = rand_augment.sample_operations(numbers, RECIPE).apply(0, image.copy(), RECIPE, FILL)
    inverted = 255 - image.astype(int)
    assert np.array_equal(found, np.where(inverted < 128, inverted + 99, inverted))
    numbers[0, [1, 5]] = 0.5  # not below the probability
    assert np.array_equal(rand_augment.sample_operations(numbers, RECIPE).apply(0, image, RECIPE, FILL), photo_like())


def test_colour_jitter_matches_torchvisions(monkeypatch):
    image, strengths = photo_like(), (0.4, 0.4, 0.4)
    for number in np.linspace(0, 0.999, 13):
        uniforms = np.array([number, 0.9, 0.2, 0.75])
        sequence = list(color._SEQUENCES[int(number * 6)])
        parameters = (torch.tensor([*sequence, 3]), *(1 + 0.4 * (2 * u - 1) for u in uniforms[1:]), None)
        monkeypatch.setattr(ColorJitter, "get_params", staticmethod(lambda *_, parameters=parameters: parameters))
        expected = np.asarray(ColorJitter(*strengths)(Image.fromarray(image))).astype(int)
        found = color.jitter_colors(image.copy(), uniforms, strengths).astype(int)
        assert (
            np.abs(found - expected).max() <= 3
        )  # one grey level, amplified by contrast and brightness factors of up to 1.4


def test_the_sequences_of_colour_jitter_are_equally_frequent():
    firsts = rng.uniforms(0, "color jitter", 0, 6000, color.UNIFORMS)[:, 0]
    counts = np.bincount((firsts * 6).astype(int), minlength=6)
    assert len(set(color._SEQUENCES)) == 6
    assert all(abs(a - b) < 200 for a, b in pairwise(counts))
