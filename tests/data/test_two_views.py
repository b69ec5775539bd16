"""Two views of each training image: reproducible, independent, and without effect on the first view."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from mem.config import Augmentation, Blur
from mem.data.batch import on_device
from mem.data.beton.reader import Beton
from mem.data.loading.images import TrainingImages
from mem.data.loading.samplers import InstanceSampler
from mem.data.loading.shard import RankShard
from mem.data.loading.unlabelled import UnlabelledImages
from tests.beton_files import write_beton

FIRST = Augmentation(crop_scale=(0.3, 1.0), flip=True)
SIMCLR = Augmentation(
    crop_scale=(0.3, 1.0),
    flip=True,
    color_jitter=(0.4, 0.4, 0.4),
    grayscale=0.5,
    blur=Blur(probability=0.5, sigma=(0.1, 2.0)),
)


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Beton:
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 256, (*rng.integers(12, 30, 2), 3), dtype=np.uint8) for _ in range(23)]
    path = tmp_path_factory.mktemp("beton") / "train.beton"
    write_beton(path, arrays, np.arange(23))
    return Beton(path)


def training(
    images: Beton, second: Augmentation | None = SIMCLR, workers: int = 1, shard: RankShard | None = None
) -> TrainingImages:
    sampler = InstanceSampler(len(images), 3)
    return TrainingImages(images, sampler, 12, 16, FIRST, 3, workers, shard or RankShard(), second_augmentation=second)


def second_views(batches) -> torch.Tensor:
    return torch.cat([batch.second for batch in batches if batch.second is not None])


def test_the_second_view_does_not_change_the_first(images):
    alone = list(training(images, second=None).from_step(0, 3))
    both = list(training(images).from_step(0, 3))
    assert all(batch.second is None for batch in alone)
    for one, two in zip(alone, both, strict=True):
        assert torch.equal(one.inputs, two.inputs)
        assert torch.equal(one.labels, two.labels)


@pytest.mark.parametrize("workers", [2, 5])
@pytest.mark.parametrize("step", [0, 1, 3])
def test_second_views_depend_on_seed_and_sample_only(images, workers, step):
    expected = second_views(training(images).from_step(0, 5))[12 * step :]
    assert torch.equal(second_views(training(images, workers=workers).from_step(step, 5)), expected)
    other_seed = second_views(replace(training(images), seed=4).from_step(step, 5))
    assert not torch.equal(other_seed, expected)


@pytest.mark.parametrize("ranks", [2, 3])
def test_the_second_views_of_all_ranks_are_those_of_the_batch(images, ranks):
    expected = second_views(training(images).from_step(1, 2))
    parts = [next(training(images, shard=RankShard(rank, ranks)).from_step(1, 2)) for rank in range(ranks)]
    assert len(expected) == 12
    assert torch.equal(second_views(parts), expected)


def test_both_views_show_the_same_image_with_other_random_numbers(images):
    """With the same augmentation, the views of most samples differ, although they are crops of the same image."""
    batch = next(training(images, FIRST).from_step(0, 1))
    assert batch.second is not None
    same = (batch.inputs == batch.second).flatten(1).all(dim=1)
    assert not same.any()
    plain = Augmentation(crop_scale=(1.0, 1.0), crop_ratio=(0.01, 100.0), flip=False)
    whole = TrainingImages(images, InstanceSampler(len(images), 3), 12, 16, plain, 3, 1, second_augmentation=plain)
    batch = next(whole.from_step(0, 1))
    wide = batch.inputs.float().mean(dim=(1, 2))
    assert batch.second is not None
    # Random crops of the complete area have similar mean colours.
    torch.testing.assert_close(batch.second.float().mean(dim=(1, 2)), wide, atol=40.0, rtol=0)


def test_micro_batches_and_devices_keep_the_second_view(images):
    batch = next(training(images).from_step(2, 3))
    assert batch.second is not None
    assert torch.equal(second_views(batch.split(5)), batch.second)
    (copied,) = on_device([batch], torch.device("cpu"))
    assert copied.second is not None and torch.equal(copied.second, batch.second)


def test_unlabelled_images_have_the_same_views_but_no_labels(images):
    data = training(images)
    unlabelled = UnlabelledImages(data)
    assert unlabelled.global_batch == data.global_batch
    for one, two in zip(data.from_step(1, 4), unlabelled.from_step(1, 4), strict=True):
        assert two.labels.tolist() == [-1] * len(one.labels)
        assert two.first == one.first and torch.equal(two.inputs, one.inputs)
        assert one.second is not None and two.second is not None and torch.equal(two.second, one.second)


def test_greyscale_and_blur_apply_to_their_share_of_the_samples(images):
    grey = Augmentation(crop_scale=(0.3, 1.0), flip=True, grayscale=0.3)
    many = TrainingImages(images, InstanceSampler(len(images), 3), 400, 16, FIRST, 3, 2, second_augmentation=grey)
    views = second_views(many.from_step(0, 1)).float()
    share = float((views.std(dim=3, correction=0) == 0).flatten(1).all(dim=1).float().mean())
    assert share == pytest.approx(0.3, abs=0.1)
    blurred = Augmentation(crop_scale=(0.3, 1.0), flip=True, blur=Blur(probability=0.3, sigma=(2.0, 2.0)))
    plain = second_views(replace(many, second_augmentation=FIRST).from_step(0, 1))
    changed = second_views(replace(many, second_augmentation=blurred).from_step(0, 1)) != plain
    assert float(changed.flatten(1).any(dim=1).float().mean()) == pytest.approx(0.3, abs=0.1)


def test_a_blur_whose_sigma_is_not_ordered_is_rejected():
    with pytest.raises(ValueError, match=r"sigma: the minimum must not exceed the maximum, got \[2.0, 0.1\]"):
        Blur(probability=0.5, sigma=(2.0, 0.1))
