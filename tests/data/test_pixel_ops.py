"""Changes of pictures, against Pillow's by timm's functions."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest
from PIL import Image
from timm.data import auto_augment

from mem.config import RandAugment
from mem.data.augment import rand_augment

FILL = (124, 116, 104)
RECIPE = RandAugment(layers=2, magnitude=9, magnitude_std=0.5, increasing=True)
TIMMS = {
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


def picture(rows: int = 96, columns: int = 128) -> np.ndarray:
    """Smooth shapes with some noise, as photographs have."""
    rng = np.random.default_rng(3)
    layers = [
        cv2.resize(rng.normal(size=(s, s, 3)) * 100 / s**0.7, (columns, rows), interpolation=cv2.INTER_CUBIC)
        for s in (3, 6, 12, 24)
    ]
    return np.clip(120 + sum(layers) + rng.normal(size=(rows, columns, 3)) * 2, 0, 255).astype(np.uint8)


def timms(name: str, increasing: bool, magnitude: float, monkeypatch: pytest.MonkeyPatch, sign: float) -> Callable:
    """timm's operation at a magnitude and a sign that are not drawn."""
    monkeypatch.setattr(auto_augment.random, "random", lambda: 0.25 if sign > 0 else 0.75)
    full = TIMMS.get(name, (name, name))[increasing]
    hparams = {"img_mean": FILL, "interpolation": Image.Resampling.BICUBIC}
    return auto_augment.AugmentOp(full, prob=1.0, magnitude=magnitude, hparams=hparams)


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("magnitude", [0.0, 3.3, 7.5, 9.0, 9.7])
@pytest.mark.parametrize("increasing", [True, False])
@pytest.mark.parametrize("name", list(rand_augment.OPERATIONS))
def test_each_operation_does_what_timms_does(name, increasing, magnitude, sign, monkeypatch):
    if name == "Posterize" and not increasing and magnitude < 2.5:
        pytest.skip("Pillow refuses 0 bits")
    image = picture()
    operation = timms(name, increasing, magnitude, monkeypatch, sign)
    expected = np.asarray(operation(Image.fromarray(image))).astype(int)
    strength = rand_augment.Strength(magnitude / 10, sign, increasing, FILL)
    found = rand_augment.OPERATIONS[name](image.copy(), strength).astype(int)
    difference = np.abs(found - expected)
    if name in GEOMETRIC:
        # Pillow's bicubic kernel is a = -1 and cuts fractions off, OpenCV's is a = -0.75; seams are blended.
        assert difference.mean() < 1.2
        assert (difference > 8).mean() < 0.02
    elif name in ROUNDED:
        assert difference.max() <= 1
    else:
        assert difference.max() == 0


def test_no_bits_are_black():
    strength = rand_augment.Strength(1.0, 1.0, True, FILL)
    assert not rand_augment.OPERATIONS["Posterize"](picture(), strength).any()


@pytest.mark.parametrize("name", list(rand_augment.OPERATIONS))
@pytest.mark.parametrize("image", [np.full((5, 7, 3), 200, np.uint8), np.zeros((2, 2, 3), np.uint8), picture(1, 1)])
def test_flat_and_tiny_pictures_are_no_special_case(name, image, monkeypatch):
    strength = rand_augment.Strength(0.9, 1.0, True, FILL)
    found = rand_augment.OPERATIONS[name](image.copy(), strength).astype(int)
    assert found.shape == image.shape
    if name not in GEOMETRIC:
        operation = timms(name, True, 9.0, monkeypatch, 1.0)
        if min(image.shape[:2]) > 2:
            assert np.abs(found - np.asarray(operation(Image.fromarray(image)))).max() <= 1


def test_an_operation_leaves_its_input_alone():
    for name, operation in rand_augment.OPERATIONS.items():
        image = picture()
        operation(image, rand_augment.Strength(0.9, -1.0, True, FILL))
        assert np.array_equal(image, picture()), name
