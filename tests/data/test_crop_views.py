"""Crops whose logits are averaged: sizes, positions and pixels equal those of torchvision on the resized image."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
import torchvision.transforms as T
from PIL import Image

from mem.config import Crops
from mem.data.augment.crop_positions import are_flipped, crop_corners, resized_sizes
from mem.data.beton.encoding import Encoding
from mem.data.beton.reader import Beton
from mem.data.loading.images import ImageViews
from mem.data.loading.single_image import prepare_image
from tests.beton_files import write_beton

SIZES = [(10, 10), (8, 13), (17, 9), (31, 20), (20, 31), (7, 40), (100, 3)]
"""Heights and widths of images."""


def torchvision_crops(image: torch.Tensor, side: int, number: int) -> torch.Tensor:
    """Return the crops of an image of shape (channels, height, width)."""
    if number == 2:
        center = T.CenterCrop(side)
        return torch.stack([center(image), center(image.flip(2))])
    return torch.stack((T.FiveCrop(side) if number == 5 else T.TenCrop(side))(image))


@pytest.mark.parametrize("resize", [9, 12, 248])
def test_sizes_of_resized_images_are_those_of_torchvision(resize):
    heights, widths = (np.array(values) for values in zip(*SIZES, strict=True))
    expected = [T.Resize(resize)(Image.new("L", (width, height))).size[::-1] for height, width in SIZES]
    assert resized_sizes(heights, widths, resize).tolist() == [list(size) for size in expected]


@pytest.mark.parametrize("number", [2, 5, 10])
@pytest.mark.parametrize(("resize", "side"), [(12, 9), (13, 8), (9, 9)])
def test_positions_of_crops_are_those_of_torchvision(number, resize, side):
    heights, widths = (np.array(values) for values in zip(*SIZES, strict=True))
    sizes = resized_sizes(heights, widths, resize)
    for crop in range(number):
        every = np.full(len(SIZES), crop)
        corners, flipped = crop_corners(sizes, side, every, number), are_flipped(every, number)
        for (height, width), (top, left), mirrored in zip(sizes, corners, flipped, strict=True):
            pixels = torch.arange(height * width).reshape(1, height, width)  # each pixel contains its position
            found = pixels[0, top : top + side, left : left + side]
            expected = torchvision_crops(pixels, side, number)[crop, 0]
            assert torch.equal(found.flip(1) if mirrored else found, expected)


@pytest.fixture(scope="module", params=["raw", "jpeg"])
def images(request, tmp_path_factory) -> tuple[Beton, list[np.ndarray], Encoding]:
    """A .beton file with images of all sizes, the images before they were encoded, and their encoding."""
    generator = np.random.default_rng(0)
    originals = [generator.integers(0, 256, (height, width, 3), dtype=np.uint8) for height, width in SIZES]
    path = tmp_path_factory.mktemp("crops") / "test.beton"
    write_beton(path, originals, np.arange(len(SIZES)), request.param)
    return Beton(path), originals, Encoding(request.param, 90, None, "area")


@pytest.mark.parametrize("number", [2, 5, 10])
def test_pixels_are_those_of_torchvision_on_the_resized_image_in_any_mixture_of_views(images, number):
    beton, _, _ = images
    views = ImageViews(beton, 9, 0.5, None, seed=0, workers=2, crops=Crops(number=number, resize=12))
    mixture = np.arange(3 * number) % number, np.arange(3 * number) % len(SIZES)
    (batch,) = views.batches([mixture])
    for found, view, index in zip(batch.inputs, *mixture, strict=True):
        (size,) = resized_sizes(np.array(SIZES[index][:1]), np.array(SIZES[index][1:]), 12)
        stored = np.empty((*SIZES[index], 3), dtype=np.uint8)
        beton.crop(int(index), 0, 0, *SIZES[index], stored)
        resized = cv2.resize(stored, tuple(size[::-1].tolist()), interpolation=cv2.INTER_AREA)
        expected = torchvision_crops(torch.from_numpy(resized).permute(2, 0, 1), 9, number)[view]
        assert torch.equal(found.permute(2, 0, 1), expected)


@pytest.mark.parametrize("number", [2, 5])
def test_a_single_image_has_the_pixels_of_the_image_in_the_dataset(images, number):
    beton, originals, encoding = images
    crops, index = Crops(number=number, resize=12), 3
    views = ImageViews(beton, 9, 0.5, None, seed=0, workers=1, crops=crops)
    (batch,) = views.batches([(np.arange(number), np.full(number, index))])
    assert np.array_equal(prepare_image(originals[index], encoding, 9, 0.5, crops), batch.inputs.numpy())
