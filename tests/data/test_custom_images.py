"""Readers for user-provided folders, tables and lists, and natural sorting of class names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from mem.data.datasets.labels import natural_sort
from tests.data import miniatures
from tests.data.reading import assert_same, counts_of, read


def test_class_folders_are_in_natural_order_or_as_in_class_names(tmp_path):
    values = miniatures.folder_tree(tmp_path)
    assert read(values).classes == tuple(f"class{k}" for k in range(1, 12))
    listed = [f"class{k}" for k in range(11, 0, -1)]
    (tmp_path / "names.txt").write_text("\n".join(listed))
    images = read(values | {"class_names": str(tmp_path / "names.txt")})
    assert images.classes == tuple(listed)
    assert {name.split("/")[1] for name, k in zip(images.test.names, images.test.labels, strict=True) if k == 0} == {
        "class11"
    }


def test_files_without_an_image_suffix_are_left_out_and_noted(tmp_path):
    values = miniatures.folder_tree(tmp_path)
    before = read(values)
    (tmp_path / "tree" / "train" / "class3" / "README.txt").write_text("hello")
    (tmp_path / "tree" / "train" / "class3" / ".hidden.png").write_text("")
    images = read(values)
    assert_same(before, images)
    assert images.notes == (
        f"{tmp_path}/tree/train: 1 file without a supported image suffix was skipped (train/class3/README.txt)",
    )


def test_a_test_split_is_set_aside_from_a_single_tree(tmp_path):
    values = miniatures.folder_tree(tmp_path, split_folders=False)
    all_counts = miniatures.tail(11, 12, 3)
    images = read(values)
    assert counts_of(images.test, 11) == [1] * 11
    assert counts_of(images.train, 11) == [count - 1 for count in all_counts]
    shared = read(values | {"test": {"share": 0.25, "seed": 0}})
    assert counts_of(shared.test, 11) == [int(count * 0.25 + 0.5) for count in all_counts]
    assert read(values | {"test": {"per_class": 1, "seed": 1}}).test.names != images.test.names


def test_a_balanced_folder_can_be_cut_to_a_long_tail(tmp_path):
    values = miniatures.folder_tree(tmp_path, classes=4, largest=12)
    root = Path(values["root"])
    for k in range(1, 5):
        for i in range(12):
            miniatures.write_image(root / "train" / f"class{k}" / f"train{i}.png", k - 1, i, 4)
    values |= {"cut": {"imbalance": 6, "seed": 0, "val_per_class": 0}}
    assert counts_of(read(values).train, 4) == [12, 6, 3, 2]
    assert counts_of(read(values).val, 4) == [2] * 4
    other_order = counts_of(read(values, order=1).train, 4)
    assert sorted(other_order) == [2, 3, 6, 12]


@pytest.mark.parametrize("parquet", [False, True])
def test_tables_may_have_any_column_names_and_class_names(tmp_path, parquet):
    images = read(miniatures.table(tmp_path, parquet))
    assert images.classes == tuple(f"Species, number {k}" for k in range(1, 7))
    assert counts_of(images.train, 6) == miniatures.tail(6, 9, 3)
    assert counts_of(images.val, 6) == counts_of(images.test, 6) == [1] * 6
    label = images.classes.index("Species, number 3")
    assert images.test.names[images.test.labels.tolist().index(label)] == "test_2_0.jpg"


def test_a_test_split_is_set_aside_from_a_table_without_splits(tmp_path):
    images = read(miniatures.table(tmp_path, split_column=False))
    assert len(images.val) == 0
    assert len(images.test) == sum(int(0.2 * (count + 2) + 0.5) for count in miniatures.tail(6, 9, 3))


def test_a_parquet_table_may_have_integer_labels(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    values = miniatures.table(tmp_path, parquet=True)
    rows = pq.read_table(values["table"]).to_pylist()
    for row in rows:
        row["species"] = int(row["species"][-1]) - 1
    pq.write_table(pa.Table.from_pylist(rows), values["table"])
    images = read(values | {"labels": "numbers"})
    assert images.classes == ("0", "1", "2", "3", "4", "5")


@pytest.mark.parametrize(("separator", "mark"), [("space", " "), ("tab", "\t"), ("comma", ",")])
def test_lists_may_have_any_separator_and_class_names_or_numbers(tmp_path, separator, mark):
    plain = miniatures.long_tailed_png(tmp_path, classes=12, largest=8)
    expected = read(plain)
    names = [f"kind-{k}" for k in range(12)]
    (tmp_path / "classes.txt").write_text("\n".join(names) + "\n")
    values = plain | {"separator": separator, "labels": "names", "class_names": str(tmp_path / "classes.txt")}
    for split in ("train", "val", "test"):
        rows = [line.rsplit(" ", 1) for line in Path(plain[f"{split}_list"]).read_text().splitlines()]
        miniatures.write_list(Path(plain[f"{split}_list"]), [(path, names[int(k)]) for path, k in rows], mark)
    images = read(values)
    assert images.classes == tuple(names)
    assert images.train.names == expected.train.names
    np.testing.assert_array_equal(images.train.labels, expected.train.labels)
    del values["class_names"]
    assert_same(images, read(values))


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=30, unique=True))
@hypothesis_settings(deadline=None)
def test_natural_order_sorts_by_number(numbers):
    assert natural_sort([f"class{n}" for n in numbers]) == [f"class{n}" for n in sorted(numbers)]
    assert natural_sort(list(map(str, numbers))) == list(map(str, sorted(numbers)))


@given(st.lists(st.text(min_size=1, max_size=8), max_size=20))
@hypothesis_settings(deadline=None)
def test_natural_order_accepts_any_names_and_keeps_all(names):
    assert sorted(natural_sort(names)) == sorted(names)
    assert natural_sort(names[::-1]) == natural_sort(names)
