"""The parts of a training split: training images and held-out images, as positions in the same files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mem.config import Augmentation, Holdout
from mem.data.features.rows import copy_parts
from mem.data.features.stored import create_feature_file, feature_file, open_split, read_about, write_about
from mem.data.loading.images import ImageViews, TrainingImages
from mem.data.loading.samplers import InstanceSampler, PartSampler
from mem.data.loading.shard import RankShard
from mem.data.loading.split_images import open_images
from mem.data.split_parts import describe_parts, parts_of_train
from mem.errors import UserError
from tests.beton_files import write_beton
from tests.data import miniatures
from tests.data.reading import read

COUNTS = (20, 9, 5, 2, 1)
HOLDOUT = Holdout(share=0.3, seed=0)
AUGMENTATION = Augmentation(crop_scale=(0.3, 1.0), flip=True)


def shuffled_labels(counts: tuple[int, ...] = COUNTS) -> np.ndarray:
    return np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))


@settings(deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=8), st.floats(0.3, 0.9), st.integers(0, 5))
def test_the_parts_are_disjoint_complete_and_leave_an_image_of_every_class(counts, share, seed):
    labels = shuffled_labels((*counts, 4))  # the last class has enough images to hold one out
    parts = parts_of_train(labels, Holdout(share=share, seed=seed))
    assert sorted([*parts["train"], *parts["val"]]) == list(range(len(labels)))
    assert all((np.diff(part) > 0).all() for part in parts.values())
    assert set(labels[parts["train"]]) == set(labels)
    assert len(parts["test"]) == 0


def test_the_held_out_images_are_those_that_dataset_holdout_takes_from_the_training_split(tmp_path):
    values = miniatures.inaturalist_2018(tmp_path)
    complete = read(values)
    held = read(values | {"holdout": {"share": 0.3, "seed": 0}})
    parts = parts_of_train(complete.train.labels, HOLDOUT)
    for split in ("train", "val"):
        assert [complete.train.names[i] for i in parts[split]] == list(held.splits[split].names)


def test_a_share_that_selects_no_image_is_refused():
    with pytest.raises(UserError, match=r"selection\.holdout\.share: 0\.01 selects less than one image"):
        parts_of_train(shuffled_labels(), Holdout(share=0.01, seed=0))


def test_the_parts_are_described_for_the_record():
    labels = shuffled_labels()
    assert describe_parts(labels, parts_of_train(labels, HOLDOUT)) == {
        "held_out_images": 6 + 3 + 2 + 1,
        "training_images": 14 + 6 + 3 + 1 + 1,
        "classes_without_held_out_images": 1,
    }


@pytest.fixture(scope="module")
def converted(tmp_path_factory) -> Path:
    """A folder with training images, an empty val split, and no test split at all."""
    folder = tmp_path_factory.mktemp("converted")
    rng = np.random.default_rng(1)
    labels = shuffled_labels()
    arrays = [rng.integers(0, 256, (*rng.integers(8, 20, 2), 3), dtype=np.uint8) for _ in labels]
    write_beton(folder / "train.beton", arrays, labels)
    write_beton(folder / "val.beton", [], np.zeros(0, np.int64))
    return folder


def test_a_part_reads_the_files_of_train_and_never_test(converted):
    opened = {split: open_images(converted, split, HOLDOUT) for split in ("train", "val", "test")}
    assert {images.file.path.name for images in opened.values()} == {"train.beton"}
    assert [len(opened[split]) for split in ("train", "val", "test")] == [25, 12, 0]
    parts = parts_of_train(shuffled_labels(), HOLDOUT)
    for split, images in opened.items():
        np.testing.assert_array_equal(images.labels, shuffled_labels()[parts[split]])
    with pytest.raises(UserError, match=r"test\.beton: no such file"):
        open_images(converted, "test")


def test_without_held_out_images_a_split_is_its_file(converted):
    images = open_images(converted, "train")
    np.testing.assert_array_equal(images.positions, np.arange(sum(COUNTS)))


def test_a_dataset_with_val_is_refused(converted, tmp_path):
    for name in ("train", "val"):
        (tmp_path / f"{name}.beton").symlink_to(converted / "train.beton")
    with pytest.raises(UserError, match="the dataset has a val split of 37 images"):
        open_images(tmp_path, "train", HOLDOUT)


def part_batches(folder: Path, workers: int, shard: RankShard) -> list[tuple[np.ndarray, np.ndarray]]:
    part = open_images(folder, "train", HOLDOUT)
    sampler = PartSampler(InstanceSampler(len(part), 3), part.positions)
    images = TrainingImages(part.file, sampler, 10, 16, AUGMENTATION, 3, workers, shard)
    return [(batch.inputs.numpy().copy(), batch.labels.numpy().copy()) for batch in images.from_step(0, 5)]


@pytest.mark.parametrize("ranks", [2, 3])
def test_batches_of_a_part_do_not_depend_on_workers_and_ranks(converted, ranks):
    complete = part_batches(converted, 1, RankShard())
    parts = [part_batches(converted, 3, RankShard(rank, ranks)) for rank in range(ranks)]
    for step, (inputs, labels) in enumerate(complete):
        np.testing.assert_array_equal(np.concatenate([part[step][0] for part in parts]), inputs)
        np.testing.assert_array_equal(np.concatenate([part[step][1] for part in parts]), labels)


def test_training_on_a_part_visits_each_of_its_images_once_per_epoch_and_no_other():
    parts = parts_of_train(shuffled_labels(), HOLDOUT)
    sampler = PartSampler(InstanceSampler(25, 0), parts["train"])
    for epoch in range(3):
        np.testing.assert_array_equal(np.sort(sampler.indices(25 * epoch, 25)), parts["train"])


def test_an_augmented_view_of_an_image_is_the_same_in_both_branches(converted):
    def view(images, positions: np.ndarray) -> np.ndarray:
        views = ImageViews(images.file, 16, 1.0, AUGMENTATION, 5, workers=1)
        return np.concatenate([batch.inputs.numpy().copy() for batch in views.of_view(positions, 1, 8)])

    part, complete = open_images(converted, "train", HOLDOUT), open_images(converted, "train")
    expected = view(complete, complete.positions)[part.positions]
    np.testing.assert_array_equal(view(part, part.positions), expected)


# --- features ------------------------------------------------------------------------------------------


@pytest.fixture
def features(tmp_path) -> Path:
    """A folder with two views of pooled features and tokens of all training images, and features of test images."""
    folder, rng = tmp_path / "features", np.random.default_rng(0)
    for split, images, views in (("train", sum(COUNTS), 2), ("val", 0, 1), ("test", 4, 1)):
        create_feature_file(folder, split, "pooled", (views, images, 3))[:] = rng.random((views, images, 3))
        create_feature_file(folder, split, "tokens", (views, images, 2, 3), "float16")[:] = rng.random(
            (views, images, 2, 3)
        )
    for split, labels in (("train", shuffled_labels()), ("val", np.zeros(0, np.int64)), ("test", np.arange(4))):
        np.save(feature_file(folder, split, "labels"), labels)
    write_about(folder, {"class_counts": list(COUNTS), "width": 3})
    return folder


def test_the_features_of_a_part_are_rows_of_the_features_of_train(features, tmp_path):
    out = tmp_path / "part"
    out.mkdir()
    copy_parts(features, out, HOLDOUT)
    complete, parts = open_split(features, "train"), parts_of_train(shuffled_labels(), HOLDOUT)
    for split, views in (("train", 2), ("val", 1), ("test", 1)):
        found = open_split(out, split)
        assert found.tokens is not None and complete.tokens is not None
        assert (found.views, found.tokens.dtype) == (views, np.float16)
        np.testing.assert_array_equal(found.labels, shuffled_labels()[parts[split]])
        np.testing.assert_array_equal(found.pooled, complete.pooled[:views, parts[split]])
        np.testing.assert_array_equal(found.tokens, complete.tokens[:views, parts[split]])
    counts = np.bincount(shuffled_labels()[parts["train"]])
    assert read_about(out) == {"class_counts": counts.tolist(), "width": 3}


def test_features_are_copied_in_pieces(features, tmp_path, monkeypatch):
    monkeypatch.setattr("mem.data.features.rows._BYTES_PER_COPY", 40)
    out = tmp_path / "part"
    out.mkdir()
    copy_parts(features, out, HOLDOUT)
    parts = parts_of_train(shuffled_labels(), HOLDOUT)
    np.testing.assert_array_equal(
        open_split(out, "train").pooled, open_split(features, "train").pooled[:, parts["train"]]
    )


def test_features_with_a_val_split_are_refused(features, tmp_path):
    np.save(feature_file(features, "val", "labels"), np.arange(3))
    with pytest.raises(UserError, match="the dataset has a val split of 3 images"):
        copy_parts(features, tmp_path, HOLDOUT)
