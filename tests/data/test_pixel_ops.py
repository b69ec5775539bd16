"""Comparison of image operations with Pillow's operations, which timm calls."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest
from PIL import Image, ImageFilter
from timm.data import auto_augment

from mem.config import RandAugment
from mem.data.augment import pixel_ops, rand_augment

FILL = (124, 116, 104)
RECIPE = RandAugment(layers=2, magnitude=9, magnitude_std=0.5, increasing=True)
TIMM_NAMES = {
    "Posterize": ("Posterize", "PosterizeIncreasing"),
    "Solarize": ("Solarize", "SolarizeIncreasing"),
    "Color": ("Color", "ColorIncreasing"),
    "Contrast": ("Contrast", "ContrastIncreasing"),
    "Brightness": ("Brightness", "BrightnessIncreasing"),
    "Sharpness": ("Sharpness", "SharpnessIncreasing"),
    "TranslateX": ("TranslateXRel", "TranslateXRel"),
    "TranslateY": ("TranslateYRel", "TranslateYRel"),
}
GEOMETRIC = ("Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY")
ROUNDED = ("Color", "Sharpness")


def photo_like(rows: int = 96, columns: int = 128) -> np.ndarray:
    """Create a photograph-like image with smooth shapes and some noise."""
    rng = np.random.default_rng(3)
    layers = [
        cv2.resize(rng.normal(size=(s, s, 3)) * 100 / s**0.7, (columns, rows), interpolation=cv2.INTER_CUBIC)
        for s in (3, 6, 12, 24)
    ]
    return np.clip(120 + sum(layers) + rng.normal(size=(rows, columns, 3)) * 2, 0, 255).astype(np.uint8)


def timm_operation(
    name: str, increasing: bool, magnitude: float, monkeypatch: pytest.MonkeyPatch, sign: float
) -> Callable:
    """Return timm's operation with a fixed magnitude and sign."""
    monkeypatch.setattr(auto_augment.random, "random", lambda: 0.25 if sign > 0 else 0.75)
    full_name = TIMM_NAMES.get(name, (name, name))[increasing]
    hparams = {"img_mean": FILL, "interpolation": Image.Resampling.BICUBIC}
    return auto_augment.AugmentOp(full_name, prob=1.0, magnitude=magnitude, hparams=hparams)


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("magnitude", [0.0, 3.3, 7.5, 9.0, 9.7])
@pytest.mark.parametrize("increasing", [True, False])
@pytest.mark.parametrize("name", list(rand_augment.OPERATIONS))
def test_each_operation_matches_timms(name, increasing, magnitude, sign, monkeypatch):
    if name == "Posterize" and not increasing and magnitude < 2.5:
        pytest.skip("Pillow rejects 0 bits")
    image = photo_like()
    operation = timm_operation(name, increasing, magnitude, monkeypatch, sign)
    expected = np.asarray(operation(Image.fromarray(image))).astype(int)
    strength = rand_augment.Strength(magnitude / 10, sign, increasing, FILL)
    found = rand_augment.OPERATIONS[name](image.copy(), strength).astype(int)
    difference = np.abs(found - expected)
    if name in GEOMETRIC:
        # Pillow's bicubic kernel has a = -1, OpenCV's a = -0.75. Pillow truncates. OpenCV blends borders with `fill`.
        assert difference.mean() < 1.2
        assert (difference > 8).mean() < 0.02
    elif name in ROUNDED:
        assert difference.max() <= 1
    else:
        assert difference.max() == 0


def test_posterizing_to_zero_bits_is_black():
    strength = rand_augment.Strength(1.0, 1.0, True, FILL)
    assert not rand_augment.OPERATIONS["Posterize"](photo_like(), strength).any()


@pytest.mark.parametrize("name", list(rand_augment.OPERATIONS))
@pytest.mark.parametrize("image", [np.full((5, 7, 3), 200, np.uint8), np.zeros((2, 2, 3), np.uint8), photo_like(1, 1)])
def test_flat_and_tiny_images_work(name, image, monkeypatch):
    strength = rand_augment.Strength(0.9, 1.0, True, FILL)
    found = rand_augment.OPERATIONS[name](image.copy(), strength).astype(int)
    assert found.shape == image.shape
    if name not in GEOMETRIC:
        operation = timm_operation(name, True, 9.0, monkeypatch, 1.0)
        if min(image.shape[:2]) > 2:
            assert np.abs(found - np.asarray(operation(Image.fromarray(image)))).max() <= 1


def test_operations_do_not_change_their_input():
    for name, operation in rand_augment.OPERATIONS.items():
        image = photo_like()
        operation(image, rand_augment.Strength(0.9, -1.0, True, FILL))
        assert np.array_equal(image, photo_like()), name


def test_greyscale_matches_pillow():
    """Pillow computes the grey value with weights of 16 bits, OpenCV with 14 bits."""
    image = photo_like()
    expected = np.asarray(Image.fromarray(image).convert("L")).astype(int)[:, :, None]
    assert np.abs(pixel_ops.grayscale(image).astype(int) - expected).max() <= 1


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.0])
def test_blur_matches_pillow(sigma):
    """Pillow approximates the Gaussian with three box filters and rounds after each of them."""
    blocks = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    image = blocks.repeat(8, axis=0).repeat(8, axis=1)
    expected = np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(sigma))).astype(int)
    difference = np.abs(pixel_ops.gaussian_blur(image, sigma).astype(int) - expected)
    assert difference.max() <= 6
    assert 10 * difference.mean() < np.abs(expected - image).mean()


def test_greyscale_and_blur_do_not_change_their_input():
    image = photo_like()
    pixel_ops.grayscale(image)
    pixel_ops.gaussian_blur(image, 1.5)
    assert np.array_equal(image, photo_like())
