"""Dataset conversion: output files, size budgets, and unreadable images."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mem.data.beton.reader import Beton
from mem.data.codecs.decode import decode, shrink
from mem.data.convert import storage
from mem.data.convert.convert import convert, train_counts
from mem.data.datasets import ImageSet, ImageSplit, read_dataset
from mem.errors import UserError
from tests.data.conversions import COUNTS, contents, converted, photo, pixels, refusal, settings_for

pytestmark = pytest.mark.stage


def test_each_split_contains_its_shrunken_images_in_order(tree, tmp_path):
    converted(tree, tmp_path, storage="raw")
    images = read_dataset(settings_for(tree), 0)
    for name, split in images.splits.items():
        beton = Beton(tmp_path / f"{name}.beton")
        np.testing.assert_array_equal(beton.labels, split.labels)
        for i in range(0, len(split), 7):
            content = split.read(i)
            assert isinstance(content, bytes)
            np.testing.assert_array_equal(pixels(beton, i), shrink(decode(content), 40, "area"))
    assert {p.name for p in tmp_path.iterdir()} == set(contents(tmp_path))


def test_the_manifest_describes_the_files(uninterrupted):
    manifest = json.loads((uninterrupted / "dataset.json").read_text())
    assert {name: split["images"] for name, split in manifest["splits"].items()} == COUNTS
    np.testing.assert_array_equal(train_counts(uninterrupted), [50, 50, 50])
    assert manifest["skipped"] == {"train": 0, "val": 0, "test": 0}
    kept = manifest["kept"]
    assert (kept["storage"], kept["jpeg_quality"], kept["short_side"], kept["resample"]) == ("jpeg", 85, 40, "area")
    assert kept["files_as_they_were"] == 0
    with open(uninterrupted / "images.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == sum(COUNTS.values())


@pytest.mark.parametrize("workers", [2, 4])
def test_the_bytes_do_not_depend_on_the_number_of_workers(tree, uninterrupted, tmp_path, workers):
    converted(tree, tmp_path, workers=workers)
    assert contents(tmp_path) == contents(uninterrupted)


def test_a_jpeg_file_of_no_higher_quality_is_copied(tree, tmp_path):
    manifest = converted(tree, tmp_path, jpeg_quality=95, short_side=None)
    assert manifest["kept"]["files_as_they_were"] == sum(COUNTS.values())
    images = read_dataset(settings_for(tree), 0)
    beton = Beton(tmp_path / "train.beton")
    content = images.train.read(5)
    assert isinstance(content, bytes)
    start, size = int(beton._positions[5]), int(beton._sizes[5])
    assert (tmp_path / "train.beton").read_bytes()[start : start + size] == content
    assert (
        np.abs(pixels(beton, 5).astype(int) - decode(content)).max() <= 6
    )  # FFCV decodes with a faster, less accurate inverse DCT
    assert converted(tree, tmp_path, jpeg_quality=94, short_side=None)["kept"]["files_as_they_were"] == 0


def images_of(read: Callable[[int], np.ndarray | bytes], train: int, val: int, test: int) -> ImageSet:
    """Create an image set whose images are not in files."""

    def split(name: str, first: int, count: int) -> ImageSplit:
        labels = np.arange(count) % 2
        return ImageSplit(labels, tuple(f"{name}/{i}" for i in range(count)), lambda i: read(first + i))

    return ImageSet(("a", "b"), split("train", 0, train), split("val", train, val), split("test", 5000, test))


def test_pixels_in_memory_are_converted_without_processes(tmp_path, monkeypatch):
    monkeypatch.setattr("mem.data.convert.convert.WorkerPool", None)
    settings = settings_for(tmp_path, storage="raw", short_side=None)
    convert(images_of(photo, 300, 0, 4), settings, tmp_path / "out", 2, lambda text: None)
    np.testing.assert_array_equal(pixels(Beton(tmp_path / "out" / "train.beton"), 299), photo(299))
    assert len(Beton(tmp_path / "out" / "val.beton")) == 0


def test_the_contents_of_files_are_sent_to_the_workers(tmp_path):
    def read(i: int) -> bytes:
        file = io.BytesIO()
        Image.fromarray(np.kron(photo(i), np.ones((8, 8, 1), np.uint8))).save(file, "BMP")
        return file.getvalue()  # 900 kB, which does not fit into a pipe

    settings = settings_for(tmp_path, storage="raw", short_side=60)
    convert(images_of(read, 120, 1, 1), settings, tmp_path / "out", 2, lambda text: None)
    np.testing.assert_array_equal(pixels(Beton(tmp_path / "out" / "train.beton"), 119), photo(119))


def test_a_class_without_a_training_image_is_named(tmp_path):
    images = ImageSet(("a", "b", "seal"), *images_of(photo, 4, 1, 1).splits.values())
    with pytest.raises(UserError, match="1 of 3 classes has no readable training images: seal"):
        convert(images, settings_for(tmp_path), tmp_path / "out", 1, print)
    assert not (tmp_path / "out").exists()


# --- size budget -------------------------------------------------------------------------------------------


def fitted(tree: Path, out: Path, budget_gb: float, messages: list[str] | None = None) -> dict:
    say = messages.append if messages is not None else lambda text: None
    manifest = converted(tree, out, storage="fit", size_budget_gb=budget_gb, say=say)
    return manifest["kept"]


def test_a_budget_selects_raw_pixels_or_a_jpeg_quality(tree, tmp_path):
    raw = fitted(tree, tmp_path / "raw", 1.0)
    assert raw["storage"] == "raw"
    pixels_gb = sum(COUNTS.values()) * 40 * 53 * 3 / 1e9
    assert raw["estimated_gb"] == pytest.approx(pixels_gb, abs=1e-3)
    messages: list[str] = []
    best = fitted(tree, tmp_path / "best", 0.9 * pixels_gb, messages)
    assert (best["storage"], best["jpeg_quality"]) == ("jpeg", 95)
    assert "budget, stored as JPEG with quality 95" in messages[-1]
    lower = fitted(tree, tmp_path / "lower", 0.25 * pixels_gb)
    assert 50 <= lower["jpeg_quality"] < 95
    sizes = [int(Beton(tmp_path / "lower" / f"{name}.beton")._sizes.sum()) for name in COUNTS]
    assert sum(sizes) <= 0.25 * pixels_gb * 1e9
    # The next higher quality exceeds the budget.
    better = storage.QUALITIES[storage.QUALITIES.index(lower["jpeg_quality"]) - 1]
    converted(tree, tmp_path / "better", jpeg_quality=better)
    sizes = [int(Beton(tmp_path / "better" / f"{name}.beton")._sizes.sum()) for name in COUNTS]
    assert sum(sizes) > 0.25 * pixels_gb * 1e9


def test_a_budget_that_is_too_small_is_rejected_with_the_sizes(tree, tmp_path):
    message = refusal(tree, tmp_path, storage="fit", size_budget_gb=1e-5)
    assert message.startswith("dataset.size_budget_gb: 1e-05 GB is not enough for 210 images. They need 0.00134 GB raw")
    assert "at the lowest quality, 50." in message


def test_the_measured_sample_does_not_depend_on_the_number_of_workers(tree, tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "SAMPLE", 20)
    kept = [fitted(tree, tmp_path / str(workers), 0.0006) for workers in (1, 2)]
    assert kept[0] == kept[1]
    assert contents(tmp_path / "1") == contents(tmp_path / "2")


# --- unreadable files --------------------------------------------------------------------------------------


def damage(root: Path) -> list[str]:
    """Damage files in two splits and return their names."""
    damaged = {"train/class1/0100.jpg": 0.5, "train/class0/0003.jpg": 0.9, "val/class2/0002.jpg": 0.0}
    for name, kept in damaged.items():
        content = (root / name).read_bytes()
        (root / name).write_bytes(content[: int(kept * len(content))] or b"<html>")
    return list(damaged)


def test_fail_lists_all_unreadable_files_and_the_next_run_resumes(tree_copy, tree, uninterrupted, tmp_path):
    names = damage(tree_copy)
    message = refusal(tree_copy, tmp_path / "out")
    assert message.startswith("3 of 210 files are not complete images:\n")
    for name in names:
        assert str(tree_copy / name) in message
    assert "it starts with 3c68746d6c3e" in message
    with open(tmp_path / "out" / "unreadable.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["name"] for row in rows} == {str(tree_copy / name) for name in names}
    assert not list((tmp_path / "out").glob("*.beton"))
    for name in names:
        (tree_copy / name).write_bytes((tree / name).read_bytes())
    messages: list[str] = []
    converted(tree_copy, tmp_path / "out", say=messages.append)
    assert messages[0].startswith("An earlier run converted ")
    assert contents(tmp_path / "out") == contents(uninterrupted)
    assert {p.name for p in (tmp_path / "out").iterdir()} == set(contents(uninterrupted))


def test_a_message_lists_ten_unreadable_files_and_the_record_lists_all(tree_copy, tmp_path):
    for i in range(0, 150, 10):
        (tree_copy / f"train/class{i % 3}/{i:04d}.jpg").write_bytes(b"nothing")
    message = refusal(tree_copy, tmp_path / "out")
    assert "15 of 210 files are not complete images" in message
    assert "and 5 more" in message
    assert len((tmp_path / "out" / "unreadable.csv").read_text().splitlines()) == 16


@pytest.mark.parametrize("workers", [1, 3])
def test_skip_omits_counts_and_records_unreadable_files(tree_copy, tmp_path, workers):
    names = damage(tree_copy)
    messages: list[str] = []
    manifest = converted(tree_copy, tmp_path / "out", workers, messages.append, unreadable="skip")
    assert manifest["skipped"] == {"train": 2, "val": 1, "test": 0}
    assert manifest["splits"]["train"]["images"] == 148
    np.testing.assert_array_equal(train_counts(tmp_path / "out"), [49, 49, 50])
    assert "3 of 210 files are not complete images; skipped:" in messages[0]
    with open(tmp_path / "out" / "skipped.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == sorted(str(tree_copy / name) for name in names)
    beton = Beton(tmp_path / "out" / "train.beton")
    assert len(beton) == 148
    with open(tmp_path / "out" / "images.csv", newline="") as file:
        listed = [row for row in csv.DictReader(file) if row["split"] == "train"]
    np.testing.assert_array_equal(beton.labels, [int(row["label"]) for row in listed])
    assert not [row for row in listed if row["name"].endswith(("0100.jpg", "0003.jpg"))]
    images = read_dataset(settings_for(tree_copy), 0)
    for position in (0, 50, 147):
        content = images.train.read(images.train.names.index(listed[position]["name"]))
        assert isinstance(content, bytes)
        expected = shrink(decode(content), 40, "area").astype(int)
        assert np.abs(pixels(beton, position) - expected).mean() < 10


def test_skipping_all_training_images_of_a_class_is_an_error(tree_copy, tmp_path):
    for path in (tree_copy / "train" / "class1").iterdir():
        path.write_bytes(b"")
    message = refusal(tree_copy, tmp_path / "out", unreadable="skip")
    assert "1 of 3 classes has no readable training images: class1" in message
    assert not list((tmp_path / "out").glob("*.beton"))


def test_missing_files_are_an_error_before_any_work(tree_copy, tmp_path):
    images = read_dataset(settings_for(tree_copy), 0)
    (tree_copy / "train/class1/0100.jpg").unlink()
    for policy in ("fail", "skip"):
        with pytest.raises(UserError, match=r"0100\.jpg"):
            convert(images, settings_for(tree_copy, unreadable=policy), tmp_path / "out", 2, print)
    assert not (tmp_path / "out").exists()


def test_an_image_that_is_too_wide_for_the_format_is_rejected(tree_copy, tmp_path):
    Image.fromarray(np.zeros((2, 66_000, 3), np.uint8)).save(tree_copy / "train/class0/wide.png")
    message = refusal(tree_copy, tmp_path / "out", short_side=None)
    assert "wide.png is 66000 x 2 pixels; sides are limited to 65,500: set `short_side`" in message
