"""Loaders: the same sample is the same picture, whoever makes it and whenever."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
import torch

from mem import rng
from mem.config import Augmentation, RandAugment
from mem.data.augment import crop
from mem.data.augment.erasing import random_erase
from mem.data.augment.mixing import Mixing, mix
from mem.data.beton.reader import Beton
from mem.data.loading.images import ImageViews, TrainingImages, plain_batches
from mem.data.loading.prefetch import prefetch
from mem.data.loading.samplers import InstanceSampler
from mem.data.loading.shard import RankShard
from mem.errors import UserError
from mem.models.pixels import Pixels
from tests.beton_files import write_beton

AUGMENTATION = Augmentation(crop_scale=(0.3, 1.0), flip=True)
EVERYTHING = Augmentation(
    crop_scale=(0.3, 1.0),
    flip=True,
    rand_augment=RandAugment(layers=2, magnitude=9, magnitude_std=0.5, increasing=True),
    color_jitter=(0.4, 0.4, 0.4),
    erasing=0.25,
)
PIXELS = Pixels((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
MIXING = Mixing(0.8, 1.0, 1.0, 0.5)


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Beton:
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (*rng.integers(8, 30, 2), 3), dtype=np.uint8) for _ in range(53)]
    path = tmp_path_factory.mktemp("beton") / "train.beton"
    write_beton(path, pictures, np.arange(53), storage="jpeg")
    return Beton(path)


def training(images: Beton, workers: int = 1, part: RankShard | None = None, seed: int = 3) -> TrainingImages:
    return TrainingImages(
        images, InstanceSampler(len(images), seed), 10, 16, AUGMENTATION, seed, workers, part or RankShard()
    )


def finetuning(images: Beton, workers: int = 1, part: RankShard | None = None) -> TrainingImages:
    """All augmentation that there is."""
    order = InstanceSampler(len(images), 3)
    return TrainingImages(images, order, 10, 16, EVERYTHING, 3, workers, part or RankShard(), group_size=2)


def seen(batches, micro_batch: int | None = None) -> list[torch.Tensor]:
    """What a model in finetuning sees: images, labels, partners, shares."""
    parts = [part for batch in batches for part in batch.split(micro_batch)]
    erased = [random_erase(PIXELS.normalise(part.inputs), part, EVERYTHING.erasing) for part in parts]
    samples = [mix(images, part, MIXING) for images, part in zip(erased, parts, strict=True)]
    return [torch.cat([getattr(s, name) for s in samples]) for name in ("images", "labels", "partner_labels", "shares")]


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
    parts = [list(training(images, part=RankShard(rank, ranks)).from_step(2, 5)) for rank in range(ranks)]
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
        return pixels(ImageViews(images, 12, 1.0, AUGMENTATION, 0, 2).of_view(np.array(indices), view, batch))

    whole = views(range(53), 53, 1)
    assert torch.equal(whole[[30, 4]], views([30, 4], 1, 1))
    assert not torch.equal(whole, views(range(53), 53, 2))


def test_crops_and_flips_alone_are_what_the_numbers_of_their_stream_say(images):
    """Guards results that were trained before there was any other augmentation."""
    (batch,) = training(images, seed=5).from_step(7, 8)
    indices = InstanceSampler(53, 5).indices(70, 10)
    uniforms = rng.uniforms(5, "augmentation", 70, 10, 23)
    sizes = images.heights[indices], images.widths[indices]
    for i, box in enumerate(crop.random_resized_crops(*sizes, uniforms, (0.3, 1.0), (3 / 4, 4 / 3)).tolist()):
        expected = np.empty((16, 16, 3), np.uint8)
        images.crop(int(indices[i]), *box, expected)
        expected = expected[:, ::-1] if uniforms[i, 22] < 0.5 else expected
        assert np.array_equal(batch.inputs[i].numpy(), expected)


@pytest.mark.parametrize("workers", [2, 4])
def test_with_everything_on_batches_do_not_depend_on_the_number_of_workers(images, workers):
    one, many = (seen(finetuning(images, w).from_step(0, 8)) for w in (1, workers))
    assert all(map(torch.equal, one, many))
    plain = seen(
        TrainingImages(images, InstanceSampler(53, 3), 10, 16, AUGMENTATION, 3, 1, group_size=2).from_step(0, 8)
    )
    assert not torch.equal(one[0], plain[0])


@pytest.mark.parametrize("step", [1, 5, 11])
def test_with_everything_on_a_resumed_training_sees_what_it_would_have_seen(images, step):
    whole = seen(list(finetuning(images).from_step(0, 12))[step:])
    assert all(map(torch.equal, whole, seen(finetuning(images, 2).from_step(step, 12))))


@pytest.mark.parametrize(("ranks", "micro_batch"), [(1, 3), (2, None), (3, 2), (4, 1)])
def test_with_everything_on_ranks_and_micro_batches_make_up_the_batch(images, ranks, micro_batch):
    whole = seen(finetuning(images).from_step(2, 3))
    parts = [seen(finetuning(images, 2, RankShard(r, ranks)).from_step(2, 3), micro_batch) for r in range(ranks)]
    assert all(torch.equal(whole[k], torch.cat([part[k] for part in parts])) for k in range(4))


@pytest.mark.parametrize("count", [0, 1, 2, 53])
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_evaluation_sees_each_image_once_on_any_number_of_ranks(images, ranks, count):
    labels: list[int] = []
    for rank in range(ranks):
        indices = np.arange(*RankShard(rank, ranks).bounds(count))
        for batch in plain_batches(images, indices, 8, 12, 0.9, 2):
            labels += batch.labels.tolist()
    assert labels == list(range(count))


def test_a_split_without_images_has_no_batches(tmp_path):
    write_beton(tmp_path / "val.beton", [], np.arange(0), storage="jpeg")
    empty = Beton(tmp_path / "val.beton")
    assert list(plain_batches(empty, np.arange(len(empty)), 8, 12, 1.0, 2)) == []
    assert list(ImageViews(empty, 12, 1.0, EVERYTHING, 0, 2).of_view(np.arange(len(empty)), 1, 8)) == []


def test_a_damaged_image_is_named_with_its_file(images, tmp_path):
    content = bytearray(images.path.read_bytes())
    start, size = int(images._positions[17]), int(images._sizes[17])
    content[start : start + size] = bytes(size)
    path = tmp_path / "damaged.beton"
    path.write_bytes(content)
    for batches in (
        plain_batches(Beton(path), np.arange(53), 20, 12, 1.0, 2),
        finetuning(Beton(path), 2).from_step(0, 6),
    ):
        with pytest.raises(UserError, match=r"damaged\.beton: image 17 does not decode"):
            list(batches)


def test_what_the_maker_raises_is_raised_in_the_consumer():
    def make():
        yield 1
        raise ValueError("the third is broken")

    items = prefetch(make)
    assert next(items) == 1
    with pytest.raises(ValueError, match="the third is broken"):
        next(items)


def test_leaving_early_stops_the_thread():
    before = threading.active_count()
    items = prefetch(lambda: iter(range(10**9)))
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

    items = prefetch(make, depth=3)
    next(items)
    time.sleep(0.3)
    assert 3 <= len(made) <= 5
    items.close()


def test_batches_that_are_kept_keep_their_pixels(images):
    """Memory of batches is used again, but only of those that nobody holds."""
    kept, copies, addresses = [], [], set()
    for step, batch in enumerate(finetuning(images, 2).from_step(0, 30)):
        addresses.add(batch.inputs.data_ptr())
        if step % 3 == 0:
            kept.append(batch.inputs[3:5])  # a part of a batch holds all of it
            copies.append(batch.inputs[3:5].clone())
    assert all(map(torch.equal, kept, copies))
    assert len(addresses) < 25
