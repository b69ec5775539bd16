"""Loaders: the same sample is the same picture, whoever makes it and whenever."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
import torch

from mem.config import Augmentation
from mem.data.beton import Beton, write_beton
from mem.data.loaders import Slice, TrainingImages, ahead, augmented_batches, plain_batches
from mem.data.order import InstanceOrder

AUGMENTATION = Augmentation(crop_scale=(0.3, 1.0), flip=True)


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Beton:
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (*rng.integers(8, 30, 2), 3), dtype=np.uint8) for _ in range(53)]
    path = tmp_path_factory.mktemp("beton") / "train.beton"
    write_beton(path, np.arange(53), pictures.__getitem__, storage="jpeg", jpeg_quality=90, workers=2)
    return Beton(path)


def training(images: Beton, workers: int = 1, part: Slice | None = None, seed: int = 3) -> TrainingImages:
    return TrainingImages(
        images, InstanceOrder(len(images), seed), 10, 16, AUGMENTATION, seed, workers, part or Slice()
    )


def pixels(batches) -> torch.Tensor:
    return torch.cat([batch.inputs for batch in batches])


@pytest.mark.parametrize("workers", [2, 4])
def test_batches_do_not_depend_on_the_number_of_workers(images, workers):
    one, many = pixels(training(images).from_step(0, 8)), pixels(training(images, workers).from_step(0, 8))
    assert torch.equal(one, many)
    assert one.shape == (80, 16, 16, 3)


@pytest.mark.parametrize("step", [1, 5, 6, 11])
def test_a_training_resumed_at_any_step_sees_what_it_would_have_seen(images, step):
    whole = list(training(images).from_step(0, 12))
    resumed = list(training(images).from_step(step, 12))
    assert torch.equal(pixels(whole[step:]), pixels(resumed))
    assert [batch.first for batch in resumed] == [10 * s for s in range(step, 12)]
    assert torch.equal(whole[step].uniforms("mask", 5), resumed[0].uniforms("mask", 5))


@pytest.mark.parametrize("ranks", [2, 3])
def test_the_ranks_parts_make_up_the_batch(images, ranks):
    whole = list(training(images).from_step(2, 5))
    parts = [list(training(images, part=Slice(rank, ranks)).from_step(2, 5)) for rank in range(ranks)]
    for step in range(3):
        assert torch.equal(whole[step].inputs, torch.cat([part[step].inputs for part in parts]))
        noise = torch.cat([part[step].uniforms("mask", 7) for part in parts])
        assert torch.equal(whole[step].uniforms("mask", 7), noise)


def test_each_image_comes_once_an_epoch_though_batches_straddle_epochs(images):
    labels = torch.cat([batch.labels for batch in training(images).from_step(0, 11)])
    assert sorted(labels[:53].tolist()) == list(range(53))
    assert sorted(labels[53:106].tolist()) == list(range(53))


def test_another_seed_gives_other_pictures(images):
    assert not torch.equal(
        pixels(training(images, seed=3).from_step(0, 2)), pixels(training(images, seed=4).from_step(0, 2))
    )


def test_evaluation_sees_each_image_once_in_order_and_unaugmented(images):
    batches = list(plain_batches(images, np.arange(53), 20, 12, 1.0, 2))
    assert [len(batch) for batch in batches] == [20, 20, 13]
    assert torch.equal(torch.cat([batch.labels for batch in batches]), torch.arange(53))
    again = pixels(plain_batches(images, np.arange(53), 7, 12, 1.0, 1))
    assert torch.equal(pixels(batches), again)


def test_a_view_of_an_image_does_not_depend_on_the_batch_it_is_made_in(images):
    def views(indices, batch, view):
        return pixels(augmented_batches(images, np.array(indices), batch, 12, AUGMENTATION, 0, view, 2))

    whole = views(range(53), 53, 1)
    assert torch.equal(whole[[30, 4]], views([30, 4], 1, 1))
    assert not torch.equal(whole, views(range(53), 53, 2))


def test_what_the_maker_raises_is_raised_in_the_consumer():
    def make():
        yield 1
        raise ValueError("the third is broken")

    items = ahead(make)
    assert next(items) == 1
    with pytest.raises(ValueError, match="the third is broken"):
        next(items)


def test_leaving_early_stops_the_thread():
    before = threading.active_count()
    items = ahead(lambda: iter(range(10**9)))
    assert [next(items) for _ in range(3)] == [0, 1, 2]
    items.close()
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before


def test_batches_are_ready_before_they_are_asked_for():
    made: list[int] = []

    def make():
        for i in range(10):
            made.append(i)
            yield i

    items = ahead(make, depth=3)
    next(items)
    time.sleep(0.3)
    assert 3 <= len(made) <= 5
    items.close()
