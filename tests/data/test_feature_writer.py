"""The writer for feature files: resumption, ranks, invalid values, and the format of unfinished files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mem.data.features.stored import feature_file
from mem.data.features.writer import Chunk, FeatureWriter, SplitLayout, chunks_of_rank
from mem.errors import UserError


def new_writer(folder: Path, key: str = "k", views: int = 2, dtype: str = "float32") -> FeatureWriter:
    """Create a writer for 10 images per view in chunks of 4 images, which results in 3 chunks per view."""
    return FeatureWriter(folder, key, {"train": SplitLayout(views, 10, {"pooled": (3,)}, {"pooled": dtype})}, 4, 0.0)


def write(writer: FeatureWriter, chunks: list[Chunk], value: float = 1.0) -> None:
    for chunk in chunks:
        writer.write(chunk, {"pooled": np.full((chunk.count, 3), value)})
    writer.close()


def test_only_missing_chunks_are_left_and_only_for_the_same_run(tmp_path):
    writer = new_writer(tmp_path)
    assert writer.create_or_resume() == 0
    write(writer, writer.missing_chunks()[:3])
    assert new_writer(tmp_path).create_or_resume() == 10
    assert [chunk.number for chunk in new_writer(tmp_path).missing_chunks()] == [3, 4, 5]
    three_views = new_writer(tmp_path, views=3)
    assert three_views.create_or_resume() == 0
    write(three_views, three_views.missing_chunks())
    assert new_writer(tmp_path, "other", views=3).create_or_resume() == 0


def test_every_rank_has_a_part_of_every_view(tmp_path):
    """Views differ in their cost, and ranks that end early wait for the others."""
    chunks = list(new_writer(tmp_path, views=3).chunks())
    parts = [chunks_of_rank(chunks, rank, 2) for rank in range(2)]
    assert sorted(chunk.number for part in parts for chunk in part) == [chunk.number for chunk in chunks]
    for part in parts:
        assert {chunk.view for chunk in part} == {0, 1, 2}
        assert [chunk.number for chunk in part] == sorted(chunk.number for chunk in part)


@pytest.mark.parametrize("ranks", [1, 2, 4, 9])
def test_ranks_write_all_chunks_together(tmp_path, ranks):
    writer = new_writer(tmp_path)
    writer.create_or_resume()
    for rank in range(ranks):
        write(new_writer(tmp_path), chunks_of_rank(list(writer.chunks()), rank, ranks), rank + 1)
    assert writer.missing_chunks() == []
    writer.finish()
    assert (np.load(feature_file(tmp_path, "train", "pooled")) > 0).all()
    assert not (tmp_path / "unfinished").exists()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.nan, r"pooled feature of image 0 of train \(view 0\) is not finite.*lower base_lr"),
        (
            1e6,
            r"pooled_dtype: pooled features of images 0 to 3 of train have values up to 1e\+06, but the maximum of "
            r"float16 is 6\.55e\+04.* Set features\.pooled_dtype to float32",
        ),
    ],
)
def test_values_that_are_not_finite_or_too_large_are_rejected(tmp_path, value, message):
    writer = new_writer(tmp_path, dtype="float16")
    writer.create_or_resume()
    with pytest.raises(UserError, match=message):
        write(writer, writer.missing_chunks(), value)


def test_unfinished_files_have_the_names_and_content_of_earlier_versions(tmp_path):
    """If the format changed, a run that an earlier version started would start over instead of resuming."""
    writer = new_writer(tmp_path)
    writer.create_or_resume()
    write(writer, writer.missing_chunks()[:1])
    unfinished = tmp_path / "unfinished"
    assert sorted(path.name for path in unfinished.iterdir()) == ["map", "plan.json", "train-pooled.npy"]
    assert json.loads((unfinished / "plan.json").read_text()) == {
        "key": "k",
        "size": 4,
        "parts": {
            "train": {"views": 2, "images": 10, "shapes": {"pooled": [3]}, "dtypes": {"pooled": "float32"}},
        },
    }
    assert (unfinished / "map").read_bytes() == b"\1\0\0\0\0\0"
