"""Reading features for the training of heads: the same batches whichever way they are read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from mem.config import HeadTraining
from mem.data.features.batches import TrainingFeatures
from mem.data.features.blocks import BlockSampler, RowReader
from mem.data.features.files import FeatureSplit, create_feature_file, feature_file, open_split
from mem.data.loading.samplers import InstanceSampler
from mem.errors import UserError

IMAGES, VIEWS, TOKENS, WIDTH = 103, 3, 4, 6


def written(folder: Path, views: int = VIEWS) -> FeatureSplit:
    rng = np.random.default_rng(0)
    for kind, shape in (("pooled", (views, IMAGES, WIDTH)), ("tokens", (views, IMAGES, TOKENS, WIDTH))):
        create_feature_file(folder, "train", kind, shape)[:] = rng.normal(size=shape)
    np.save(feature_file(folder, "train", "labels"), np.arange(IMAGES))
    return open_split(folder, "train")


@pytest.fixture(scope="module")
def split(tmp_path_factory) -> FeatureSplit:
    return written(tmp_path_factory.mktemp("features"))


def training(split: FeatureSplit, tokens: bool, blocks: tuple[int, int] | None, batch: int = 10) -> TrainingFeatures:
    order = BlockSampler(IMAGES, 5, *blocks) if blocks else InstanceSampler(IMAGES, 5)
    return TrainingFeatures(split, order, batch, 5, tokens)


def test_tokens_are_read_by_threads_to_the_bytes_that_indexing_gives(split):
    data = training(split, True, None)
    for step, batch in enumerate(data.from_step(0, 25)):
        views, indices = data._samples(step)
        assert torch.equal(batch.inputs, split.inputs(views, indices, tokens=True))
        assert batch.labels.tolist() == indices.tolist()
        assert batch.first == 10 * step


@pytest.mark.parametrize("tokens", [False, True])
@pytest.mark.parametrize(("blocks", "batch"), [((4, 5), 10), ((16, 2), 10), ((1, 1), 10), ((7, 3), 64), ((200, 1), 10)])
def test_blocks_give_the_rows_that_the_order_names(split, tokens, blocks, batch):
    data = training(split, tokens, blocks, batch)
    for step, found in enumerate(data.from_step(0, 25)):
        views, indices = data._samples(step)
        assert torch.equal(found.inputs, split.inputs(views, indices, tokens=tokens))
        assert found.labels.tolist() == indices.tolist()


@pytest.mark.parametrize("blocks", [None, (8, 3)])
@pytest.mark.parametrize("tokens", [False, True])
@pytest.mark.parametrize("step", [1, 9, 11, 20])
def test_a_head_resumed_at_any_step_sees_what_it_would_have_seen(split, blocks, tokens, step):
    whole = list(training(split, tokens, blocks).from_step(0, 22))
    resumed = list(training(split, tokens, blocks).from_step(step, 22))
    assert all(torch.equal(a.inputs, b.inputs) for a, b in zip(whole[step:], resumed, strict=True))


@pytest.mark.parametrize("block", [1, 8, 50, 103, 500])
def test_each_image_comes_once_an_epoch_and_in_another_order_each_time(block):
    order = BlockSampler(IMAGES, 0, block, 3)
    first, second = order.indices(0, IMAGES), order.indices(IMAGES, IMAGES)
    assert sorted(first) == sorted(second) == list(range(IMAGES))
    assert first.tolist() != second.tolist()
    assert order.indices(IMAGES - 5, 12).tolist() == [*first[-5:], *second[:7]]


def test_a_window_holds_whole_blocks_from_anywhere():
    order = BlockSampler(1000, 0, 10, 5)
    windows = order.indices(0, 1000).reshape(20, 50)
    assert all(len(set(window // 10)) == 5 for window in windows)
    assert all(np.ptp(window) > 100 for window in windows)
    assert not any((np.diff(window) == 1).all() for window in windows)


def test_images_of_a_block_show_the_same_view_in_an_epoch_and_all_views_come():
    order = BlockSampler(1000, 0, 10, 5)
    views, indices = order.views(0, 3000, 4, seed=1), order.indices(0, 3000)
    for epoch in range(3):
        part = np.s_[1000 * epoch : 1000 * (epoch + 1)]
        by_block = [set(views[part][indices[part] // 10 == block]) for block in range(100)]
        assert all(len(seen) == 1 for seen in by_block)
    assert np.bincount(views, minlength=4).min() > 500
    assert order.views(1234, 7, 4, seed=1).tolist() == views[1234:1241].tolist()


def test_leaving_early_is_harmless(split):
    for blocks in (None, (4, 5)):
        batches = iter(training(split, True, blocks).from_step(0, 10**6))
        assert len(next(batches)) == 10
        batches.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("blocks", [None, (8, 3)])
def test_a_file_that_ends_early_is_named(tmp_path, blocks):
    split = written(tmp_path, views=1)
    path = feature_file(tmp_path, "train", "tokens")
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 4000)
    with pytest.raises(UserError, match=r"train-tokens\.npy: ends in the middle of image"):
        list(training(split, True, blocks).from_step(0, 11))


def test_rows_read_over_what_the_disk_gives_at_a_time(split, monkeypatch):
    import os

    whole = os.preadv
    monkeypatch.setattr(os, "preadv", lambda file, views, at: whole(file, [views[0][:7]], at))
    out = np.empty((3, WIDTH), dtype=np.float32)
    RowReader(split.pooled).read(1, 5, out)
    assert np.array_equal(out, split.pooled[1, 5:8])


def test_blocks_are_for_instances_only(mini_values):
    values = json.loads(json.dumps(mini_values["heads"]["crt"]["training"]))
    blocks = {"images": 64, "window": 100}
    assert HeadTraining(**values | {"sampler": "instance"}, blocks=blocks).blocks
    with pytest.raises(ValidationError, match="requires sampler `instance`"):
        HeadTraining(**values | {"sampler": "sqrt"}, blocks=blocks)
