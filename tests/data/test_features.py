"""Every kind of reader yields the same batches of stored features, and invalid files are reported."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from mem.config import HeadTraining
from mem.data.features import arrays
from mem.data.features.batches import TrainingFeatures
from mem.data.features.blocks import BlockSampler, RowReader
from mem.data.features.stored import FeatureSplit, create_feature_file, feature_file, open_split
from mem.data.loading.samplers import InstanceSampler
from mem.errors import UserError

IMAGES, VIEWS, TOKENS, WIDTH = 103, 3, 4, 6


def write_split(folder: Path, views: int = VIEWS, dtype: str = "float32") -> FeatureSplit:
    rng = np.random.default_rng(0)
    for kind, shape in (("pooled", (views, IMAGES, WIDTH)), ("tokens", (views, IMAGES, TOKENS, WIDTH))):
        create_feature_file(folder, "train", kind, shape, dtype)[:] = rng.normal(size=shape)
    np.save(feature_file(folder, "train", "labels"), np.arange(IMAGES))
    return open_split(folder, "train")


@pytest.fixture(scope="module")
def split(tmp_path_factory) -> FeatureSplit:
    return write_split(tmp_path_factory.mktemp("features"))


def training(split: FeatureSplit, tokens: bool, blocks: tuple[int, int] | None, batch: int = 10) -> TrainingFeatures:
    """Create feature batches. `blocks` contains the block size and the window size."""
    sampler = BlockSampler(IMAGES, 5, *blocks) if blocks else InstanceSampler(IMAGES, 5)
    return TrainingFeatures(split, sampler, batch, 5, tokens)


def test_tokens_that_threads_read_equal_those_from_indexing(split):
    data = training(split, True, None)
    for step, batch in enumerate(data.from_step(0, 25)):
        views, indices = data._samples(step)
        assert torch.equal(batch.inputs, split.inputs(views, indices, tokens=True))
        assert batch.labels.tolist() == indices.tolist()
        assert batch.first == 10 * step


@pytest.mark.parametrize("tokens", [False, True])
@pytest.mark.parametrize(("blocks", "batch"), [((4, 5), 10), ((16, 2), 10), ((1, 1), 10), ((7, 3), 64), ((200, 1), 10)])
def test_features_read_in_blocks_equal_those_from_indexing(split, tokens, blocks, batch):
    data = training(split, tokens, blocks, batch)
    for step, found in enumerate(data.from_step(0, 25)):
        views, indices = data._samples(step)
        assert torch.equal(found.inputs, split.inputs(views, indices, tokens=tokens))
        assert found.labels.tolist() == indices.tolist()


@pytest.mark.parametrize("blocks", [None, (8, 3)])
@pytest.mark.parametrize("tokens", [False, True])
def test_features_in_float16_are_read_as_float32(split, tmp_path, tokens, blocks):
    half = write_split(tmp_path, dtype="float16")
    assert half.pooled.dtype == np.float16
    data = training(half, tokens, blocks)
    for step, found in enumerate(data.from_step(0, 3)):
        views, indices = data._samples(step)
        expected = split.inputs(views, indices, tokens=tokens).half().float()
        for inputs in (found.inputs, half.inputs(views, indices, tokens=tokens)):
            assert inputs.dtype == torch.float32
            assert torch.equal(inputs, expected)


@pytest.mark.parametrize("blocks", [None, (8, 3)])
@pytest.mark.parametrize("tokens", [False, True])
@pytest.mark.parametrize("step", [1, 9, 11, 20])
def test_training_resumed_at_any_step_gets_the_same_batches(split, blocks, tokens, step):
    uninterrupted = list(training(split, tokens, blocks).from_step(0, 22))
    resumed = list(training(split, tokens, blocks).from_step(step, 22))
    assert all(torch.equal(a.inputs, b.inputs) for a, b in zip(uninterrupted[step:], resumed, strict=True))


def test_closing_the_batches_early_raises_nothing(split):
    for blocks in (None, (4, 5)):
        batches = iter(training(split, True, blocks).from_step(0, 10**6))
        assert len(next(batches)) == 10
        batches.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("blocks", [None, (8, 3)])
def test_a_truncated_file_is_reported_with_both_sizes(tmp_path, blocks):
    split = write_split(tmp_path, views=1)
    path = feature_file(tmp_path, "train", "tokens")
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(size - 4000)
    expected = rf"train-tokens\.npy: the file is truncated: it has {size - 4000:,} bytes, expected {size:,}"
    with pytest.raises(UserError, match=expected):
        list(training(split, True, blocks).from_step(0, 11))


def test_rows_are_complete_even_if_a_read_returns_few_bytes(split, monkeypatch):
    preadv = os.preadv
    monkeypatch.setattr(os, "preadv", lambda file, buffers, offset: preadv(file, [buffers[0][:7]], offset))
    out = np.empty((3, WIDTH), dtype=np.float32)
    RowReader(split.pooled).read(1, 5, out)
    assert np.array_equal(out, split.pooled[1, 5:8])


def test_blocks_require_instance_sampling(mini_values):
    values = json.loads(json.dumps(mini_values["heads"]["crt"]["training"]))
    blocks = {"images": 64, "window": 100}
    assert HeadTraining(**values | {"sampler": "instance"}, blocks=blocks).blocks
    with pytest.raises(ValidationError, match="requires sampler `instance`"):
        HeadTraining(**values | {"sampler": "sqrt"}, blocks=blocks)


def test_a_nan_in_the_last_value_of_a_file_is_found(tmp_path):
    pooled = create_feature_file(tmp_path, "train", "pooled", (2, 5000, 256))
    pooled[1, 4999, 255] = np.nan
    np.save(feature_file(tmp_path, "train", "labels"), np.zeros(5000, np.int64))
    with pytest.raises(UserError, match="non-finite"):
        open_split(tmp_path, "train")


def test_a_message_lists_at_most_ten_classes_without_images():
    counts = np.ones(30, dtype=np.int64)
    counts[5:17] = 0
    with pytest.raises(UserError, match=r"12 of 30 classes .*: 5, 6, 7, 8, 9, 10, 11, 12, 13, 14 and 2 more\. Add"):
        arrays.require_every_class(counts)
