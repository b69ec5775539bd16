"""Names that look alike: Unicode forms, missing values, backslashes and web addresses in lists and tables."""

from __future__ import annotations

import shutil
import unicodedata
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mem.data.check.check import check
from mem.data.check.findings import Severity
from mem.data.datasets import read_unchecked
from mem.data.datasets.base import ImageSet
from tests.data import miniatures
from tests.data.reading import counts_of, read, refusal
from tests.data.twelve_classes import all_entries, image_set, printed

COMPOSED = "café"
DECOMPOSED = unicodedata.normalize("NFD", COMPOSED)


def listed(folder: Path, train: list[tuple[str, str]], test: list[tuple[str, str]], **more: Any) -> dict[str, Any]:
    """Write two comma-separated lists with class names, and return the `dataset` section."""
    for name, rows in (("train", train), ("test", test)):
        miniatures.write_list(folder / f"{name}.txt", rows, ",")
    lists = {f"{name}_list": str(folder / f"{name}.txt") for name in ("train", "test")}
    names = {"source": "lists", "name": "x", "labels": "names", "separator": "comma"}
    return miniatures.PIXELS | names | {"root": str(folder)} | lists | more


def table(folder: Path, path: Path) -> dict[str, Any]:
    values = {"source": "table", "name": "t", "root": str(folder), "table": str(path), "labels": "names"}
    return miniatures.PIXELS | values | {"test": {"share": 0.5, "seed": 0}}


# --- class names in two Unicode forms -------------------------------------------------------------------------


def test_two_unicode_forms_of_a_label_are_one_class(tmp_path):
    values = listed(tmp_path, [("1.jpg", COMPOSED), ("2.jpg", DECOMPOSED), ("3.jpg", "bar")], [("4.jpg", DECOMPOSED)])
    images = read(values)
    assert images.classes == ("bar", COMPOSED)
    assert (counts_of(images.train, 2), images.test.labels.tolist()) == ([1, 2], [1])
    assert images.notes[0].endswith(f"class names in two Unicode forms (NFC and NFD) are one class: {COMPOSED}")
    # Names without a second spelling keep their form and their order.
    images = read(listed(tmp_path, [("1.jpg", DECOMPOSED), ("2.jpg", "cafz")], [("3.jpg", "cafz")]))
    assert (images.classes, images.notes) == ((DECOMPOSED, "cafz"), ())


def test_a_class_name_file_matches_labels_in_the_other_unicode_form(tmp_path):
    (tmp_path / "names.txt").write_text(f"{DECOMPOSED}\nbar\n")
    values = listed(tmp_path, [("1.jpg", COMPOSED), ("2.jpg", "bar")], [("3.jpg", COMPOSED)])
    images = read(values | {"class_names": str(tmp_path / "names.txt")})
    assert (images.classes, images.test.labels.tolist()) == ((DECOMPOSED, "bar"), [0])
    (tmp_path / "names.txt").write_text(f"{DECOMPOSED}\nbar\n{COMPOSED}\n")
    assert "duplicate class names (1)" in refusal(values | {"class_names": str(tmp_path / "names.txt")})


def test_class_folders_in_two_unicode_forms_are_one_class(tmp_path):
    values = miniatures.folder_tree(tmp_path, classes=3)
    root = Path(values["root"])
    before = read(values)
    (root / "train" / "class1").rename(root / "train" / COMPOSED)
    for split in ("val", "test"):
        (root / split / "class1").rename(root / split / DECOMPOSED)
    images = read(values)
    assert images.classes == (COMPOSED, "class2", "class3")
    assert counts_of(images.test, 3) == counts_of(before.test, 3)
    # Both spellings in one split: the images of both folders belong to the class.
    (root / "train" / DECOMPOSED).mkdir()
    miniatures.write_image(root / "train" / DECOMPOSED / "more.png", 0, 0, 3)
    both = read(values)
    first, *others = counts_of(images.train, 3)
    assert counts_of(both.train, 3) == [first + 1, *others]
    assert any("class folders in two Unicode forms (NFC and NFD) are one class" in note for note in both.notes)


def test_names_that_differ_only_in_capitalisation_or_spaces_give_a_note(root):
    images = image_set(root)
    names = ("Crow", "crow", "blue  jay", "blue\N{NO-BREAK SPACE}jay", *images.classes[4:])
    findings = check(ImageSet(names, images.train, images.val, images.test))
    assert "2 groups of class names differ only in capitalisation" in printed(findings, Severity.NOTE)
    assert "'Crow' / 'crow'" in printed(findings, Severity.NOTE)
    assert "class names differ" not in printed(check(images), Severity.NOTE)


# --- hints about missing files --------------------------------------------------------------------------------


@pytest.mark.parametrize(("on_disk", "in_list"), [(DECOMPOSED, COMPOSED), (COMPOSED, DECOMPOSED)])
def test_files_in_the_other_unicode_form_are_recognised(root, on_disk, in_list):
    forms = ("NFD", "NFC") if on_disk == DECOMPOSED else ("NFC", "NFD")
    rows = [(f"train/{in_list}/{in_list}.jpg", 0), *all_entries()["train"]]
    shutil.copytree(root / "train/c00", root / "train" / on_disk)
    text = printed(check(image_set(root, all_entries() | {"train": rows})))
    assert f"its name on disk is in the Unicode form {forms[0]} and in the lists in {forms[1]}" in text
    (root / "train" / on_disk).rename(root / "train" / in_list)
    shutil.copy(root / "train/c00/000.jpg", root / "train" / in_list / f"{on_disk}.jpg")
    text = printed(check(image_set(root, all_entries() | {"train": rows})))
    assert f"{on_disk}.jpg exists, but its name on disk is in the Unicode form {forms[0]}" in text
    assert "npack" not in text


@pytest.mark.parametrize("change", [lambda path: path.replace("/", "\\"), lambda path: path.replace("/", "\\", 1)])
def test_backslashes_in_paths_are_recognised(root, change):
    rows = {split: [(change(path), label) for path, label in rows] for split, rows in all_entries().items()}
    text = printed(check(image_set(root, rows)))
    assert "The paths contain backslashes, as on Windows. Replace each backslash with `/` in the lists." in text
    assert "npack" not in text


def test_backslashes_in_a_published_list_are_named_in_the_advice(tmp_path):
    values = miniatures.places_lt(tmp_path)
    path = Path(values["train_list"])
    path.write_text(path.read_text().replace("/", "\\"))
    assert "Replace each backslash with `/`. Expected train/airfield/NAME.jpg" in refusal(values)


def test_web_addresses_are_refused(tmp_path):
    values = listed(tmp_path, [("https://example.org/1.jpg", "a")], [("2.jpg", "a")])
    assert "web addresses instead of paths (1): line 1: https://example.org/1.jpg. Download the images" in refusal(
        values
    )


# --- missing values and nested columns ------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["nan", "NaN", "<NA>", "NaT"])
def test_a_missing_value_in_a_csv_table_or_list_is_not_a_class(tmp_path, text):
    path = tmp_path / "t.csv"
    path.write_text(f"path,label\na.jpg,crow\nb.jpg,crow\nc.jpg,{text}\nd.jpg,{text}\n")
    assert f"labels that are a missing value (2): row 3: c.jpg {text}, row 4: d.jpg {text}" in refusal(
        table(tmp_path, path)
    )
    values = listed(tmp_path, [("1.jpg", "a"), ("2.jpg", text)], [("3.jpg", "a")])
    assert f"labels that are a missing value (1): line 2: 2.jpg {text}" in refusal(values)
    (tmp_path / "names.txt").write_text(f"a\n{text}\n")
    assert read(values | {"class_names": str(tmp_path / "names.txt")}).classes == ("a", text)


def test_a_missing_value_in_a_parquet_table_is_a_row_without_a_label(tmp_path):
    path = tmp_path / "t.parquet"
    for labels in ([1.0, float("nan"), 2.0, 1.0], ["x", None, "y", "x"], [1, None, 2, 1]):
        pq.write_table(pa.table({"path": ["a", "b", "c", "d"], "label": labels}), path)
        assert "rows without a label (1): row 2" in refusal(table(tmp_path, path))
    pq.write_table(pa.table({"path": ["a", "b", "c", "d"], "label": [1.0, 2.0, 1.0, 2.0]}), path)
    assert read(table(tmp_path, path)).classes == ("1", "2")


def test_a_column_of_structures_or_lists_in_a_parquet_table_is_refused(tmp_path):
    path = tmp_path / "t.parquet"
    images = [{"bytes": b"x", "path": f"{i}.jpg"} for i in range(4)]
    pq.write_table(pa.table({"path": images, "label": ["a", "b", "a", "b"]}), path)
    message = refusal(table(tmp_path, path))
    assert "the column path has values of type struct with the fields bytes, path. Expected text or numbers" in message
    pq.write_table(pa.table({"path": list("wxyz"), "label": [["a"], ["b"], ["a"], ["b"]]}), path)
    assert "the column label has values of type list" in refusal(table(tmp_path, path))
    encoded = pa.array(["a", "b", "a", "b"]).dictionary_encode()
    pq.write_table(pa.table({"path": list("wxyz"), "label": encoded}), path)
    assert len(read_unchecked(miniatures.settings(table(tmp_path, path)), 0).classes) == 2
