"""Random erasing: agreement with timm's rectangle distribution, and noise that depends only on the sample."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from scipy import stats
from timm.data.random_erasing import RandomErasing

from mem import rng
from mem.data.augment.erasing import UNIFORMS, normal_noise, random_erase, rectangles
from mem.data.batch import Batch


def batch(samples: int, first: int = 0, seed: int = 0) -> Batch:
    return Batch(torch.zeros(samples, 1), torch.zeros(samples, dtype=torch.int64), first, seed)


def test_rectangles_are_distributed_like_timms():
    rows, columns, samples = 40, 60, 4000
    random.seed(0)
    torch.manual_seed(0)
    erase = RandomErasing(probability=0.25, mode="pixel", max_count=1, device="cpu")
    theirs = []
    for _ in range(samples):
        erased = (erase(torch.zeros(1, rows, columns))[0] != 0).nonzero()
        if len(erased):
            first, last = erased.min(0).values, erased.max(0).values
            theirs.append([*first, *(last - first + 1)])
        else:
            theirs.append([0] * 4)
    theirs = np.array(theirs)
    ours = rectangles(rng.uniforms(0, "erasing", 0, samples, UNIFORMS), 0.25, rows, columns)
    theirs, erased = theirs[theirs[:, 2] > 0], ours[ours[:, 2] > 0]
    assert abs(len(theirs) - len(erased)) < 0.03 * samples
    for column in range(4):
        for quantile in (0.1, 0.5, 0.9):
            expected, found = (np.quantile(boxes[:, column], quantile) for boxes in (theirs, erased))
            assert abs(expected - found) <= 3, (column, quantile, expected, found)
    top, left, height, width = ours.T
    assert (top + height <= rows).all()
    assert (left + width <= columns).all()


def test_noise_is_standard_normal_and_independent_between_pixels_and_samples():
    keys = torch.from_numpy(np.random.default_rng(0).integers(-(2**31), 2**31, (64, 2)).astype(np.int32))
    noise = normal_noise(keys, torch.Size((3, 32, 32))).flatten(1).double().numpy()
    assert stats.kstest(noise.ravel(), "norm").pvalue > 0.01
    correlations = np.corrcoef(noise)
    assert np.abs(correlations - np.eye(64)).max() < 0.1
    for lag in (1, 32, 1024):
        assert abs(np.corrcoef(noise[:, :-lag].ravel(), noise[:, lag:].ravel())[0, 1]) < 0.01


def test_only_the_rectangles_of_some_images_are_erased():
    images = torch.full((400, 3, 16, 20), 7.0)
    out = random_erase(images, batch(400), 0.25)
    changed = (out != 7).all(1)
    assert torch.equal(changed, (out != 7).any(1))
    boxes = rectangles(rng.uniforms(0, "erasing", 0, 400, UNIFORMS), 0.25, 16, 20)
    for mask, (top, left, height, width) in zip(changed, boxes, strict=True):
        expected = torch.zeros(16, 20, dtype=torch.bool)
        expected[top : top + height, left : left + width] = True
        assert torch.equal(mask, expected)
    assert 60 < changed.flatten(1).any(1).sum() < 140
    assert random_erase(images, batch(400), 0) is images


@pytest.mark.parametrize("size", [1, 3, 7])
def test_erasing_does_not_depend_on_the_division_into_micro_batches(size):
    images = torch.randn(21, 3, 12, 12)
    whole = random_erase(images, batch(21, first=100), 0.5)
    parts = []
    for i in range(0, 21, size):
        part = images[i : i + size]
        parts.append(random_erase(part, batch(len(part), 100 + i), 0.5))
    torch.testing.assert_close(torch.cat(parts), whole)
    assert (whole - random_erase(images, batch(21, first=100, seed=1), 0.5)).abs().max() > 0.1
