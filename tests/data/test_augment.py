"""Crops and flips: bounds, and agreement with torchvision's distribution."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import RandomResizedCrop

from mem import rng
from mem.data.augment import crop

sides = st.lists(st.tuples(st.integers(1, 300), st.integers(1, 300)), min_size=1, max_size=20)


@given(sizes=sides, seed=st.integers(0, 100))
@settings(deadline=None)
def test_crops_are_inside_the_image(sizes, seed):
    heights, widths = np.array(sizes, dtype=np.int64).T
    numbers = rng.uniforms(seed, "augmentation", 0, len(sizes), crop.UNIFORMS)
    top, left, height, width = crop.random_resized_crops(heights, widths, numbers, (0.2, 1.0), (3 / 4, 4 / 3)).T
    assert (height > 0).all()
    assert (width > 0).all()
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + height <= heights).all()
    assert (left + width <= widths).all()


def test_crops_are_distributed_like_torchvisions():
    n, shape = 4000, (90, 120)
    torch.manual_seed(0)
    image = torch.zeros(1, *shape)
    theirs = np.array([RandomResizedCrop.get_params(image, [0.2, 1.0], [3 / 4, 4 / 3]) for _ in range(n)])
    numbers = rng.uniforms(0, "augmentation", 0, n, crop.UNIFORMS)
    sizes = np.tile(np.array([shape], dtype=np.int64), (n, 1))
    ours = crop.random_resized_crops(sizes[:, 0], sizes[:, 1], numbers, (0.2, 1.0), (3 / 4, 4 / 3))
    for column in range(4):
        for quantile in (0.1, 0.5, 0.9):
            expected, found = np.quantile(theirs[:, column], quantile), np.quantile(ours[:, column], quantile)
            assert abs(expected - found) <= 2.5, (column, quantile, expected, found)


def test_an_image_that_is_too_narrow_gets_a_central_crop():
    heights, widths = np.array([100]), np.array([10])
    numbers = np.full((1, crop.UNIFORMS), 0.999)
    box = crop.random_resized_crops(heights, widths, numbers, (0.9, 1.0), (3 / 4, 4 / 3))
    assert box.tolist() == [[43, 0, 13, 10]]


def test_half_of_the_samples_are_flipped():
    numbers = rng.uniforms(0, "augmentation", 0, 4000, crop.UNIFORMS)
    assert abs(crop.flips(numbers).mean() - 0.5) < 0.03


@given(sizes=sides, share=st.floats(0.1, 1.0))
@settings(deadline=None)
def test_the_central_crop_is_a_centred_square(sizes, share):
    heights, widths = np.array(sizes, dtype=np.int64).T
    top, left, height, width = crop.center_crops(heights, widths, share).T
    assert (height == width).all()
    assert (np.abs(2 * top + height - heights) <= 1).all()
    assert (np.abs(2 * left + width - widths) <= 1).all()
