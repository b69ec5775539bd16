"""`holdout.group_by`: groups of images that stay together, with a regular expression or a column of a table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import ValidationError

from mem.config import GroupBy, Holdout
from mem.data.datasets.groups import hold_out_groups
from mem.errors import UserError
from mem.longtail import hold_out_share
from mem.runs.keys import keyed
from tests.data import miniatures
from tests.data.reading import read, refusal

NEUTRAL = {"name": "x", "pixel_mean": [0.5] * 3, "pixel_std": [0.5] * 3, "storage": "raw"}


def holdout(share: float = 0.25, seed: int = 0, **group_by: str) -> dict:
    return {"holdout": {"share": share, "seed": seed, "group_by": group_by}}


def listed(folder: Path, rows: list[tuple[str, int]]) -> dict:
    """Return the settings of a dataset of lists. The images are not opened."""
    (folder / "train.txt").write_text("".join(f"{path} {label}\n" for path, label in rows))
    (folder / "test.txt").write_text("".join(f"test/{label}.jpg {label}\n" for label in sorted({k for _, k in rows})))
    paths = {f"{split}_list": str(folder / f"{split}.txt") for split in ("train", "test")}
    return {"source": "lists", "root": str(folder), **paths, **NEUTRAL}


def patients(classes: int, numbers: int, images: int) -> list[tuple[str, int]]:
    return [(f"p{k}-{n}/{i}.jpg", k) for k in range(classes) for n in range(numbers) for i in range(images)]


def tabled(folder: Path, camera: str = "camera") -> dict:
    lines = [f"{path},{label},cam{i % 5}" for i, (path, label) in enumerate(patients(3, 5, 4))]
    (folder / "images.csv").write_text(f"path,label,{camera}\n" + "\n".join(lines) + "\n")
    test = {"test": {"per_class": 2, "seed": 0}}
    return {"source": "table", "root": str(folder), "table": str(folder / "images.csv"), **test, **NEUTRAL}


@given(
    images=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 30)), min_size=1, max_size=120),
    share=st.floats(0.05, 0.95),
    seed=st.integers(0, 3),
)
@hypothesis_settings(deadline=None, max_examples=60)
def test_groups_stay_together_and_every_class_keeps_an_image(images, share, seed):
    labels, groups = (np.array(column, dtype=np.int64) for column in zip(*images, strict=True))
    labels, groups = (np.unique(values, return_inverse=True)[1].astype(np.int64) for values in (labels, groups))
    classes = int(labels.max()) + 1
    parts = hold_out_groups(labels, classes, groups, share, seed)
    assert sorted([*parts.train.tolist(), *parts.rest.tolist()]) == list(range(len(labels)))
    assert not set(groups[parts.train]) & set(groups[parts.rest])
    assert set(labels[parts.train]) == set(range(classes))
    np.testing.assert_array_equal(parts.rest, hold_out_groups(labels, classes, groups, share, seed).rest)


@given(counts=st.lists(st.integers(1, 30), min_size=1, max_size=8), share=st.floats(0.05, 0.95))
@hypothesis_settings(deadline=None, max_examples=40)
def test_images_that_are_groups_of_their_own_reach_the_share_of_each_class(counts, share):
    labels = np.repeat(np.arange(len(counts)), counts)
    groups = np.random.default_rng(0).permutation(len(labels))
    expected = np.bincount(labels[hold_out_share(labels, len(counts), share, 0, "holdout").rest], minlength=len(counts))
    found = labels[hold_out_groups(labels, len(counts), groups, share, 0).rest]
    np.testing.assert_array_equal(np.bincount(found, minlength=len(counts)), expected)


def test_a_regular_expression_names_the_groups(tmp_path):
    values = listed(tmp_path, patients(3, 8, 4))
    images = read(values | holdout(regex=r"^p\d+-(\d+)/"))
    groups = [{name.split("/")[0].split("-")[1] for name in split.names} for split in (images.train, images.val)]
    assert not groups[0] & groups[1], "a group spans the classes and stays together"
    assert images.held_out
    counts = np.bincount(images.val.labels, minlength=3)
    assert counts.tolist() == [8, 8, 8], "a quarter of 8 groups of 4 images"
    assert images.notes == (
        "`holdout.group_by` holds out 2 of 8 groups, with 25.0 % of the training images (holdout.share: 25 %). "
        "Images of several classes are in 8 of the groups",
    )
    again = read(values | holdout(regex=r"^p\d+-(\d+)/"))
    assert again.val.names == images.val.names
    assert any(
        read(values | holdout(seed=seed, regex=r"^p\d+-(\d+)/")).val.names != images.val.names for seed in (1, 2)
    )


def test_a_column_names_the_groups_and_the_order_of_the_rows_does_not_matter(tmp_path):
    values = tabled(tmp_path)
    images = read(values | holdout(column="camera"))
    cameras = {
        path: row.rsplit(",", 1)[1]
        for row in (tmp_path / "images.csv").read_text().split()
        for path in [row.split(",")[0]]
    }
    found = [{cameras[name] for name in split.names} for split in (images.train, images.val)]
    assert len(found[1]) == 1 and not found[0] & found[1]


def test_a_class_with_a_single_group_stays_in_train_and_is_named(tmp_path):
    rows = [*patients(2, 4, 3), *(("single/0.jpg", 2), ("single/1.jpg", 2))]
    images = read(listed(tmp_path, rows) | holdout(regex=r"^([^/]+)/"))
    assert set(images.val.labels.tolist()) == {0, 1}
    assert "1 class has a single group, which stays in train: 2" in images.notes[0]


def test_groups_that_are_too_large_are_reported(tmp_path):
    values = listed(tmp_path, patients(2, 1, 9))
    assert "no group of images can be held out at a share of 0.25" in refusal(values | holdout(regex=r"^([^/]+)/"))


@pytest.mark.parametrize(
    ("regex", "message"),
    [
        (r"^q(\d)/", r"dataset.holdout.group_by.regex: images without a match of `^q(\d)/` (24): p0-0/0.jpg"),
        (r"^(q?)p", "images without a match"),  # the group is empty
        (r"^p1-(\d)/", "(12): p0-0/0.jpg"),
    ],
)
def test_images_without_a_group_are_reported(tmp_path, regex, message):
    assert message in refusal(listed(tmp_path, patients(2, 4, 3)) | holdout(regex=regex))


def test_a_column_that_is_missing_or_has_empty_cells_is_reported(tmp_path):
    values = tabled(tmp_path)
    message = refusal(values | holdout(column="patient"))
    assert "no column patient. The columns are path, label, camera. Set dataset.holdout.group_by.column" in message
    path = tmp_path / "images.csv"
    path.write_text(path.read_text().replace(",cam0", ","))
    assert f"{path}: images without a camera" in refusal(values | holdout(column="camera"))


@pytest.mark.parametrize(
    ("group_by", "message"),
    [
        ({"regex": "(a"}, r"`\(a` is not a valid regular expression: missing \), unterminated subpattern"),
        ({"regex": "a"}, "has 0 groups in parentheses; expected one"),
        ({"regex": "(a)(b)"}, "has 2 groups in parentheses"),
        ({}, "set exactly one of `regex` and `column`"),
        ({"regex": "(a)", "column": "b"}, "set exactly one of `regex` and `column`"),
        ({"column": ""}, "at least 1 character"),
    ],
)
def test_invalid_settings_are_refused(group_by, message):
    with pytest.raises(ValidationError, match=message):
        GroupBy.model_validate(group_by)


def test_a_column_needs_a_table(tmp_path):
    with pytest.raises((ValidationError, UserError), match="`camera` is a column of a table, but the source"):
        miniatures.settings(listed(tmp_path, patients(1, 2, 2)) | holdout(column="camera"))


def test_the_default_is_not_part_of_a_key():
    assert keyed(Holdout(share=0.1, seed=0), "convert") == {"share": 0.1, "seed": 0}
    grouped = Holdout(share=0.1, seed=0, group_by=GroupBy(regex="(a)"))
    assert keyed(grouped, "convert")["group_by"] == {"regex": "(a)"}
