"""Number of images of a study: specified by the user, read from a finished conversion, or derived from the settings."""

from __future__ import annotations

import json

import pytest

from mem.errors import UserError
from mem.plan.image_counts import count_images
from mem.runs.dag import study_runs


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
