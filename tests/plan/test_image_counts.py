"""Number of images of a study: specified by the user, read from a finished conversion, or derived from the settings."""

from __future__ import annotations

import json

import pytest

from mem.data.datasets import read_unchecked
from mem.errors import UserError
from mem.plan import disk
from mem.plan.image_counts import count_images
from mem.runs.dag import study_runs
from tests.data import miniatures
from tests.data.font_files import write_families


def test_counts_come_from_the_cut_before_the_conversion(mini):
    images = count_images(mini, study_runs(mini)[0], {})
    assert images.splits == {"train": 489, "val": 100, "test": 200}
    assert (images.classes, images.bytes_per_image) == (10, 8 * 8 * 3)


def test_counts_come_from_a_finished_conversion(mini, tmp_path):
    convert = study_runs(mini)[0]
    folder = tmp_path / convert.folder
    folder.mkdir(parents=True)
    splits = {name: {"images": number} for name, number in (("train", 70), ("val", 8), ("test", 9))}
    (folder / "dataset.json").write_text(json.dumps({"splits": splits, "classes": ["a", "b", "c"]}))
    assert count_images(mini, convert, {}, tmp_path).train == 489, "an unfinished conversion must not count"
    (folder / "run.json").write_text("{}")
    images = count_images(mini, convert, {}, tmp_path)
    assert (images.splits, images.classes) == ({"train": 70, "val": 8, "test": 9}, 3)
    assert images.converted_bytes is not None


def test_the_size_of_a_finished_conversion_is_that_of_its_files(mini, tmp_path):
    convert = study_runs(mini)[0]
    folder = tmp_path / convert.folder
    folder.mkdir(parents=True)
    splits = {name: {"images": 5} for name in ("train", "val", "test")}
    (folder / "dataset.json").write_text(json.dumps({"splits": splits, "classes": ["a"]}))
    (folder / "train.beton").write_bytes(bytes(123_456))
    assert count_images(mini, convert, {}, tmp_path).converted_bytes is None, "an unfinished conversion must not count"
    (folder / "run.json").write_text("{}")
    images = count_images(mini, convert, {}, tmp_path)
    files = sum(path.stat().st_size for path in folder.iterdir())
    assert disk.convert(mini, images).final_bytes == images.converted_bytes == files
    assert count_images(mini, convert, {"train": 9}, tmp_path).converted_bytes is None


CUSTOM = {
    "lists": lambda folder: miniatures.long_tailed_png(folder, classes=4, largest=9),
    "folder": lambda folder: miniatures.folder_tree(folder, classes=3),
    "table": miniatures.table,
}


@pytest.mark.parametrize("build", CUSTOM.values(), ids=CUSTOM)
@pytest.mark.parametrize("storage", ["raw", "jpeg"])
def test_images_of_a_custom_dataset_are_counted_and_measured_before_the_conversion(mini, tmp_path, build, storage):
    dataset = miniatures.settings(build(tmp_path) | {"storage": storage, "short_side": 12})
    images = count_images(mini.model_copy(update={"dataset": dataset}), study_runs(mini)[0], {}, tmp_path)
    expected = read_unchecked(dataset, 0)
    assert images.splits == {name: len(split) for name, split in expected.splits.items()}
    assert images.classes == len(expected.classes)
    assert images.source == f"counted in the source, size measured on {min(64, images.total)} images"
    # The images have 24 x 30 pixels, and the shorter side is reduced to 12 pixels.
    if storage == "raw":
        assert images.bytes_per_image == 12 * 15 * 3
    else:
        assert 200 < images.bytes_per_image < 12 * 15 * 3 + 400


def test_unreadable_images_are_left_out_of_the_sample(mini, tmp_path):
    dataset = miniatures.settings(CUSTOM["folder"](tmp_path))
    files = sorted((tmp_path / "tree").rglob("*.png"))
    for path in files[1:]:
        path.write_bytes(b"damaged")
    changed = mini.model_copy(update={"dataset": dataset})
    assert "size measured on 1 image" in count_images(changed, study_runs(mini)[0], {}, tmp_path).source
    files[0].unlink()
    assert "measured" not in count_images(changed, study_runs(mini)[0], {}, tmp_path).source


def test_a_custom_dataset_that_cannot_be_read_is_reported_unless_its_numbers_are_given(mini, tmp_path):
    dataset = miniatures.settings(CUSTOM["lists"](tmp_path) | {"train_list": str(tmp_path / "nothing.txt")})
    changed = mini.model_copy(update={"dataset": dataset})
    with pytest.raises(UserError, match=r"(?s)nothing.txt: no such file.*cannot be counted.*--images train=N"):
        count_images(changed, study_runs(mini)[0], {}, tmp_path)
    given = {"train": 5, "test": 6, "classes": 2}
    assert count_images(changed, study_runs(mini)[0], given, tmp_path).train == 5


def test_unknown_counts_must_be_given(mini):
    dataset = mini.dataset.model_copy(update={"source": "folder", "cut": None})
    unknown = mini.model_copy(update={"dataset": dataset})
    with pytest.raises(UserError, match=r"The number of images of `folder` is unknown.*--images train=N"):
        count_images(unknown, study_runs(mini)[0], {"train": 5})
    given = {"train": 5, "test": 6, "classes": 2}
    assert count_images(unknown, study_runs(mini)[0], given).splits == {"train": 5, "val": 0, "test": 6}


def test_a_holdout_moves_its_share_from_train_to_val(mini):
    cut = mini.dataset.cut.model_copy(update={"val_per_class": 0})
    dataset = mini.dataset.model_copy(update={"cut": cut, "holdout": type("Holdout", (), {"share": 0.1})()})
    images = count_images(mini.model_copy(update={"dataset": dataset}), study_runs(mini)[0], {})
    assert images.splits == {"train": 440, "val": 49, "test": 200}


def test_glyphs_have_the_counts_of_their_profile(mini, tmp_path):
    values = {"profile": "imagenet_lt", "classes": 250, "largest": None, "imbalance": None, "image_size": 32}
    values |= {"test_per_class": 20, "val_per_class": 20}
    dataset = miniatures.settings(miniatures.glyphs(tmp_path / "nothing", **values))
    images = count_images(mini.model_copy(update={"dataset": dataset}), study_runs(mini)[0], {})
    assert images.splits == {"train": 29_451, "val": 5_000, "test": 5_000}
    assert (images.classes, images.bytes_per_image, images.source) == (250, 32 * 32 * 3, "profile imagenet_lt")
    published = miniatures.settings(miniatures.glyphs(tmp_path / "nothing", **values | {"classes": None}))
    images = count_images(mini.model_copy(update={"dataset": published}), study_runs(mini)[0], {})
    assert (images.train, images.classes) == (115_846, 1000)


def test_glyphs_are_counted_in_the_fonts_if_the_profile_does_not_specify_their_number(mini, tmp_path):
    root = write_families(tmp_path / "fonts")
    values = miniatures.glyphs(root, profile="natural", classes=None, largest=None, imbalance=None)
    dataset = miniatures.settings(values)
    images = count_images(mini.model_copy(update={"dataset": dataset}), study_runs(mini)[0], {})
    expected = read_unchecked(dataset, mini.orders[0])
    assert images.splits == {name: len(split) for name, split in expected.splits.items()}
    assert images.bytes_per_image == 16 * 16 * 3
    missing = miniatures.settings(values | {"root": str(tmp_path / "nothing")})
    with pytest.raises(UserError, match=r"mem data fonts.*\n.*--images train=N"):
        count_images(mini.model_copy(update={"dataset": missing}), study_runs(mini)[0], {})
