"""Image batches do not depend on workers, ranks, micro-batches, or the step from which training resumes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mem import rng
from mem.config import Augmentation, Crops, RandAugment
from mem.data.augment import crop
from mem.data.augment.erasing import random_erase
from mem.data.augment.mixing import Mixing, mix
from mem.data.beton.reader import Beton
from mem.data.loading.images import ImageViews, TrainingImages, plain_batches
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
    arrays = [rng.integers(0, 256, (*rng.integers(8, 30, 2), 3), dtype=np.uint8) for _ in range(53)]
    path = tmp_path_factory.mktemp("beton") / "train.beton"
    write_beton(path, arrays, np.arange(53), storage="jpeg")
    return Beton(path)


def training(images: Beton, workers: int = 1, shard: RankShard | None = None, seed: int = 3) -> TrainingImages:
    return TrainingImages(
        images, InstanceSampler(len(images), seed), 10, 16, AUGMENTATION, seed, workers, shard or RankShard()
    )


def finetuning(images: Beton, workers: int = 1, shard: RankShard | None = None) -> TrainingImages:
    """Create training images with every kind of augmentation."""
    sampler = InstanceSampler(len(images), 3)
    return TrainingImages(images, sampler, 10, 16, EVERYTHING, 3, workers, shard or RankShard(), group_size=2)


def model_inputs(batches, micro_batch: int | None = None) -> list[torch.Tensor]:
    """Return the concatenated inputs of all finetuning steps: images, labels, partner labels and mixing weights."""
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
def test_training_resumed_at_any_step_gets_the_same_batches(images, step):
    complete = list(training(images).from_step(0, 12))
    resumed = list(training(images).from_step(step, 12))
    assert torch.equal(pixels(complete[step:]), pixels(resumed))
    assert [batch.first for batch in resumed] == [10 * s for s in range(step, 12)]
    assert torch.equal(complete[step].uniforms("mask", 5), resumed[0].uniforms("mask", 5))


@pytest.mark.parametrize("ranks", [2, 3])
def test_the_parts_of_all_ranks_are_the_batch(images, ranks):
    complete = list(training(images).from_step(2, 5))
    parts = [list(training(images, shard=RankShard(rank, ranks)).from_step(2, 5)) for rank in range(ranks)]
    for step in range(3):
        assert torch.equal(complete[step].inputs, torch.cat([part[step].inputs for part in parts]))
        noise = torch.cat([part[step].uniforms("mask", 7) for part in parts])
        assert torch.equal(complete[step].uniforms("mask", 7), noise)


def test_every_image_occurs_once_per_epoch_even_if_batches_span_epochs(images):
    labels = torch.cat([batch.labels for batch in training(images).from_step(0, 11)])
    assert sorted(labels[:53].tolist()) == list(range(53))
    assert sorted(labels[53:106].tolist()) == list(range(53))


def test_a_different_seed_gives_different_pixels(images):
    assert not torch.equal(
        pixels(training(images, seed=3).from_step(0, 2)), pixels(training(images, seed=4).from_step(0, 2))
    )


def test_evaluation_yields_every_image_once_in_order_without_augmentation(images):
    batches = list(plain_batches(images, np.arange(53), 20, 12, 1.0, 2))
    assert [len(batch) for batch in batches] == [20, 20, 13]
    assert torch.equal(torch.cat([batch.labels for batch in batches]), torch.arange(53))
    other_batches = plain_batches(images, np.arange(53), 7, 12, 1.0, 1)
    assert torch.equal(pixels(batches), pixels(other_batches))


def test_a_view_of_an_image_does_not_depend_on_its_batch(images):
    def views(indices, batch, view):
        return pixels(ImageViews(images, 12, 1.0, AUGMENTATION, 0, 2).of_view(np.array(indices), view, batch))

    complete = views(range(53), 53, 1)
    assert torch.equal(complete[[30, 4]], views([30, 4], 1, 1))
    assert not torch.equal(complete, views(range(53), 53, 2))


def test_crops_and_flips_follow_the_random_stream_augmentation(images):
    """If the stream were used differently, training runs would no longer reproduce recorded results."""
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
def test_fully_augmented_batches_do_not_depend_on_the_number_of_workers(images, workers):
    one, many = (model_inputs(finetuning(images, w).from_step(0, 8)) for w in (1, workers))
    assert all(map(torch.equal, one, many))
    plain = model_inputs(
        TrainingImages(images, InstanceSampler(53, 3), 10, 16, AUGMENTATION, 3, 1, group_size=2).from_step(0, 8)
    )
    assert not torch.equal(one[0], plain[0])


@pytest.mark.parametrize("step", [1, 5, 11])
def test_fully_augmented_training_resumed_at_any_step_gets_the_same_batches(images, step):
    complete = model_inputs(list(finetuning(images).from_step(0, 12))[step:])
    assert all(map(torch.equal, complete, model_inputs(finetuning(images, 2).from_step(step, 12))))


@pytest.mark.parametrize(("ranks", "micro_batch"), [(1, 3), (2, None), (3, 2), (4, 1)])
def test_fully_augmented_parts_of_ranks_and_micro_batches_are_the_batch(images, ranks, micro_batch):
    complete = model_inputs(finetuning(images).from_step(2, 3))
    shards = [RankShard(rank, ranks) for rank in range(ranks)]
    parts = [model_inputs(finetuning(images, 2, shard).from_step(2, 3), micro_batch) for shard in shards]
    for k in range(4):
        torch.testing.assert_close(torch.cat([part[k] for part in parts]), complete[k])


@pytest.mark.parametrize("count", [0, 1, 2, 53])
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_evaluation_yields_every_image_once_on_any_number_of_ranks(images, ranks, count):
    labels: list[int] = []
    for rank in range(ranks):
        indices = np.arange(*RankShard(rank, ranks).bounds(count))
        for batch in plain_batches(images, indices, 8, 12, 0.9, 2):
            labels += batch.labels.tolist()
    assert labels == list(range(count))


def test_a_split_without_images_yields_no_batches(tmp_path):
    write_beton(tmp_path / "val.beton", [], np.arange(0), storage="jpeg")
    empty = Beton(tmp_path / "val.beton")
    assert list(plain_batches(empty, np.arange(len(empty)), 8, 12, 1.0, 2)) == []
    assert list(ImageViews(empty, 12, 1.0, EVERYTHING, 0, 2).of_view(np.arange(len(empty)), 1, 8)) == []


def test_the_error_of_a_damaged_image_names_file_and_image(images, tmp_path):
    content = bytearray(images.path.read_bytes())
    start, size = int(images._positions[17]), int(images._sizes[17])
    content[start : start + size] = bytes(size)
    path = tmp_path / "damaged.beton"
    path.write_bytes(content)
    for batches in (
        plain_batches(Beton(path), np.arange(53), 20, 12, 1.0, 2),
        finetuning(Beton(path), 2).from_step(0, 6),
        ImageViews(Beton(path), 12, 1.0, None, 0, 2, crops=Crops(number=5, resize=14)).of_view(np.arange(4, 53), 3, 10),
    ):
        with pytest.raises(UserError, match=r"damaged\.beton: image 17 cannot be decoded"):
            list(batches)


def test_memory_is_reused_only_for_batches_without_references(images):
    kept, copies, addresses = [], [], set()
    for step, batch in enumerate(finetuning(images, 2).from_step(0, 30)):
        addresses.add(batch.inputs.data_ptr())
        if step % 3 == 0:
            kept.append(batch.inputs[3:5])  # a slice keeps its batch's memory alive
            copies.append(batch.inputs[3:5].clone())
    assert all(map(torch.equal, kept, copies))
    assert len(addresses) < 25
