"""Invalid lists, folders, tables and annotations. One message reports all problems, with counts and examples."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mem.data.datasets.index_files import read_list
from mem.errors import UserError
from tests.data import miniatures
from tests.data.reading import read, refusal

Row = tuple[str, int | str]
GOOD: list[Row] = [("a/1.jpg", 0), ("a/2.jpg", 0), ("b/1.jpg", 1), ("c/1.jpg", 2)]
TEST: list[Row] = [("t/1.jpg", 0), ("t/2.jpg", 1), ("t/3.jpg", 2)]


def listed(folder: Path, train: list[Row] | bytes, test: list[Row] | bytes = TEST, **more: Any) -> dict[str, Any]:
    """Write two lists and return the `dataset` section that refers to them."""
    for name, rows in (("train", train), ("test", test)):
        path = folder / f"{name}.txt"
        path.write_bytes(rows) if isinstance(rows, bytes) else miniatures.write_list(path, rows)
    lists = {"train_list": str(folder / "train.txt"), "test_list": str(folder / "test.txt")}
    return miniatures.PIXELS | {"source": "lists", "name": "x", "root": str(folder)} | lists | more


# --- lists -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([("d/1.jpg", "two")] * 3, "labels that are not numbers (3): line 5: d/1.jpg two"),
        ([("d/1.jpg", "1.0")], "labels that are not numbers (1): line 5: d/1.jpg 1.0"),
        ([("d/1.jpg", "1_0")], "labels that are not numbers (1): line 5: d/1.jpg 1_0"),
        ([("d/1.jpg", "٣")], "labels that are not numbers (1): line 5: d/1.jpg ٣"),
        ([("d/1.jpg", "9" * 30)], "labels that are not numbers (1)"),
        ([("d/1.jpg", -1), ("d/2.jpg", -7)], "negative labels (2): line 5: d/1.jpg -1, line 6: d/2.jpg -7"),
        ([("d/1.jpg", 5)], "classes without images (2): 3, 4. Labels must be 0 to 5 without gaps"),
        ([("d/1.jpg", 10**12)], "classes without images (999,999,999,997): 3, 4, 5, 6, 7 and"),
        ([("/d/1.jpg", 1), ("/d/2.jpg", 1)], "absolute paths (2): line 5: /d/1.jpg, line 6: /d/2.jpg"),
        ([("C:\\d\\1.jpg", 1)], "absolute paths (1): line 5: C:\\d\\1.jpg"),
        ([("../d/1.jpg", 1), ("d/../../e.jpg", 1)], "paths with `..` (2): line 5: ../d/1.jpg, line 6: d/../../e.jpg"),
        ([("d/\0.jpg", 1)], "paths with a null byte (1): line 5"),
        ([("", 1)], "lines without a path (1): line 5"),
        ([("a/1.jpg", 0)], "images listed twice in train (1): a/1.jpg"),
        ([("a//1.jpg", 0), ("./a/./2.jpg", 0)], "images listed twice in train (2): a/1.jpg, a/2.jpg"),
        ([("t/1.jpg", 0), ("t/3.jpg", 2)], "images listed in both train and test (2): t/1.jpg, t/3.jpg"),
        ([(f"d/{i}.jpg", "x") for i in range(1000)], "and 995 more"),
    ],
)
def test_invalid_lines_are_counted_by_kind_with_examples(tmp_path, rows, expected):
    assert expected in refusal(listed(tmp_path, GOOD + rows))


def test_all_kinds_of_problems_are_in_one_message(tmp_path):
    message = refusal(listed(tmp_path, [*GOOD, ("/x.jpg", 1), ("../y.jpg", 1), ("z.jpg", "")]))
    assert message.count("\n") == 3
    assert "train.txt:\n" in message
    assert "lines without a label (1): line 7: z.jpg. Expected a path, a space and a label" in message


def test_classes_without_training_images_are_reported(tmp_path):
    assert "classes without training images (1): 3. Add images or remove the classes" in refusal(
        listed(tmp_path, GOOD, [*TEST, ("t/4.jpg", 3)])
    )
    names = tmp_path / "names.txt"
    names.write_text("\n".join("abcde"))
    message = refusal(listed(tmp_path, GOOD, class_names=str(names)))
    assert "classes without images (2): 3, 4" in message
    names.write_text("a\nb")
    assert "labels out of range (1): 2. Expected 0 to 1" in refusal(listed(tmp_path, GOOD, class_names=str(names)))


def test_labels_that_are_not_class_names_are_reported(tmp_path):
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    values = {"labels": "names", "class_names": str(tmp_path / "names.txt")}
    rows: list[Row] = [("1.jpg", "cat"), ("2.jpg", "dog"), ("3.jpg", "cow")]
    message = refusal(listed(tmp_path, rows, [("4.jpg", "cat")], **values))
    assert "labels that are not class names (1): line 3: 3.jpg cow" in message


def test_duplicate_class_names_are_reported(tmp_path):
    (tmp_path / "names.txt").write_text("cat\ndog\ncat\n")
    message = refusal(listed(tmp_path, GOOD, class_names=str(tmp_path / "names.txt")))
    assert "duplicate class names (1): cat (classes 0 and 2)" in message


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "the list is empty. Expected one line per image: a path, a space and a label"),
        (b"\n \r\n\n", "the list is empty"),
        (b"\xff\xfea\x00 \x000\x00", "is UTF-16 text. Save it as UTF-8"),
        (b"\x1f\x8b\x08\x00", "is compressed. Unpack it with gunzip"),
        (b"PK\x03\x04....", "is a zip archive"),
        (b"<!DOCTYPE html><html>", "is a web page, not the expected file. Download it again"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
        (b"a.jpg,0\nb.jpg,1\n", "lines without a label (2): line 1: a.jpg,0"),
    ],
)
def test_a_file_that_is_not_a_list_is_refused(tmp_path, content, expected):
    assert expected in refusal(listed(tmp_path, content))


def test_a_missing_list_is_reported(tmp_path):
    values = listed(tmp_path, GOOD)
    os.unlink(tmp_path / "test.txt")
    assert f"{tmp_path}/test.txt: no such file" in refusal(values)
    assert "Is a directory" in refusal(values | {"test_list": str(tmp_path)})


def test_any_line_endings_blank_lines_a_byte_order_mark_and_spaces_are_accepted(tmp_path):
    plain = read(listed(tmp_path, [("my photos/a b.jpg", 0), *GOOD]))
    lines = [b"my photos/a b.jpg 0", *(f"{path} {label}".encode() for path, label in GOOD)]
    for content in (
        b"\r\n".join(lines) + b"\r\n",
        b"\r".join(lines),
        b"\n\n".join(lines),
        b"\xef\xbb\xbf" + b"\n".join(lines),
        b" \n".join(lines) + b"\t\n\n\n",
    ):
        images = read(listed(tmp_path, content))
        assert images.train.names == plain.train.names
        assert images.train.labels.tolist() == [0, 0, 0, 1, 2]


def test_names_that_are_not_utf8_refer_to_their_files(tmp_path):
    name = b"caf\xe9 \xff.jpg"
    (tmp_path / os.fsdecode(name)).write_bytes(b"an image")
    images = read(listed(tmp_path, name + b" 0\nb.jpg 1\nc.jpg 2\n"))
    assert os.fsencode(images.train.names[0]) == name
    assert images.train.read(0) == b"an image"
    assert "café" not in refusal(listed(tmp_path, name + b" 0\n" + name + b" 0\nb.jpg 1\nc.jpg 2\n"))


@given(content=st.binary(max_size=200))
@settings(deadline=None)
def test_any_bytes_give_rows_or_a_message(content, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "any.txt"
    path.write_bytes(content)
    try:
        rows = read_list(path)
    except UserError as error:
        str(error).encode()
    else:
        assert all(rows.paths)
        assert all(rows.labels)


segment = st.text(st.characters(exclude_characters="/\n\r\0", codec="utf-8"), min_size=1, max_size=8).filter(
    lambda s: s == s.strip(" \t") and s not in (".", "..") and not (len(s) > 1 and s[1] == ":")
)


@given(rows=st.lists(st.tuples(st.lists(segment, min_size=1, max_size=4), st.integers(0, 10**9)), min_size=1))
@settings(deadline=None)
def test_a_written_list_is_read_unchanged(rows, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "written.txt"
    content = "".join(f"{'/'.join(parts)} {label}\n" for parts, label in rows)
    path.write_bytes(b"\xef\xbb\xbf" + content.encode())
    found = read_list(path)
    assert found.paths == ["/".join(parts) for parts, _ in rows]
    assert found.labels == [str(label) for _, label in rows]


# --- folders and tables ------------------------------------------------------------------------------------


def test_inconsistent_folders_are_reported(tmp_path):
    values = miniatures.folder_tree(tmp_path)
    root = Path(values["root"])
    (root / "test" / "class99").mkdir()
    assert "class folders in test that are not in the training split (1): test/class99" in refusal(values)
    (root / "test" / "class99").rmdir()
    shutil.rmtree(root / "train" / "class4")
    (root / "train" / "class4").mkdir()
    assert "classes without training images (1): class4" in refusal(values)
    assert "nothing: no such folder" in refusal(values | {"val_folder": "nothing"})
    assert "no such folder" in refusal(values | {"root": str(tmp_path / "none")})
    (tmp_path / "names.txt").write_text("class1\nclass77\n")
    message = refusal(values | {"class_names": str(tmp_path / "names.txt")})
    assert "class folders in train that are not in class_names (10)" in message
    assert "classes without a folder of training images (1): class77" in message


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "the table is empty"),
        ("file,species\n", "the table has a header but no rows"),
        ("path,species\na,b\n", "no column file. The columns are path, species"),
        ("file,file,species\na,b,c\n", "duplicate column file"),
        (
            "file,species\na.jpg,x\nb.jpg\nc.jpg,x,y\n",
            "rows with a different number of cells than the header (2): row 2 has 1, row 3",
        ),
        ("file,species\na.jpg,x\n,x\nc.jpg,\n", "rows without a file (1): row 2"),
        ("file,species\n/a.jpg,x\n../b.jpg,x\n", "absolute paths (1): row 1: /a.jpg"),
        (
            'file,species\n"a.jpg,x\n',
            "rows with a different number of cells than the header (1): row 1 has 1. Expected 2",
        ),
    ],
)
def test_an_invalid_table_is_refused(tmp_path, content, expected):
    (tmp_path / "t.csv").write_text(content)
    values = {
        "source": "table",
        "name": "t",
        "root": str(tmp_path),
        "table": str(tmp_path / "t.csv"),
        "labels": "names",
    }
    values |= {"path_column": "file", "label_column": "species", "test": {"share": 0.5, "seed": 0}}
    assert expected in refusal(miniatures.PIXELS | values)


def test_splits_of_a_table_are_checked(tmp_path):
    values = miniatures.table(tmp_path)
    message = refusal(values | {"split_values": {}})
    assert "rows with an unknown part" in message
    assert "and 1 more. Expected train, val, test" in message
    message = refusal(values | {"test": {"per_class": 1, "seed": 0}})
    assert "has rows for a test split. Remove dataset.test" in message
    text = Path(values["table"]).read_text()
    Path(values["table"]).write_text("\n".join(line for line in text.splitlines() if not line.endswith(",test")))
    assert "has no rows for a test split" in refusal(values)
    assert "has a val split of 6 images. Remove dataset.holdout" in refusal(
        values | {"test": {"share": 0.3, "seed": 0}, "holdout": {"share": 0.2, "seed": 0}}
    )


def test_a_truncated_parquet_file_is_refused(tmp_path):
    values = miniatures.table(tmp_path, parquet=True)
    content = Path(values["table"]).read_bytes()
    Path(values["table"]).write_bytes(content[: len(content) // 2])
    assert "not a valid Parquet file" in refusal(values)
    assert "no column nothing. The columns are id, file, species, part" in refusal(
        miniatures.table(tmp_path, parquet=True) | {"label_column": "nothing"}
    )


# --- annotations in JSON -----------------------------------------------------------------------------------


def annotations(folder: Path, change) -> dict[str, Any]:
    """Write the iNaturalist miniature with a modified training file."""
    values = miniatures.inaturalist_2018(folder)
    path = Path(values["train_list"])
    content = json.loads(path.read_text())
    path.write_text(json.dumps(change(content) or content))
    return values


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            lambda c: c.pop("annotations") and None,
            "lists images without annotations, like the competition's test split",
        ),
        (lambda c: c.pop("categories") and None, "not in COCO's format; missing keys: categories"),
        (lambda c: [c], "not in COCO's format; missing keys: images, annotations, categories"),
        (lambda c: 7, "not in COCO's format"),
        (lambda c: c.update(images=[]), "`images` must be a list with at least one entry"),
        (
            lambda c: c["images"][0].pop("file_name") and None,
            "entries of `images` without a valid `file_name` (1): entry 0",
        ),
        (
            lambda c: c["annotations"][0].update(category_id="4"),
            "entries of `annotations` without a valid `category_id` (1)",
        ),
        (lambda c: c["annotations"][0].update(category_id=99), "annotations with an unlisted category (1)"),
        (lambda c: c["annotations"][0].update(image_id=10**6), "annotations of unlisted images (1)"),
        (lambda c: c["annotations"].pop() and None, "images without an annotation (1): image 1"),
        (lambda c: c["images"][1].update(id=1), "duplicate image ids (1)"),
        (lambda c: c["categories"][0].update(name="Species numbera0"), "duplicate class names (1)"),
        (lambda c: c["categories"][0].update(id=12), "missing category ids (1): 11"),
        (lambda c: c["images"][0].update(file_name="../x/3/y.jpg"), "paths with `..` (1): image 1: ../x/3/y.jpg"),
    ],
)
def test_invalid_annotations_are_refused(tmp_path, change, expected):
    assert expected in refusal(annotations(tmp_path, change))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_truncated_json_file_is_refused(tmp_path, share):
    values = miniatures.inaturalist_2018(tmp_path)
    content = Path(values["train_list"]).read_bytes()
    Path(values["train_list"]).write_bytes(content[: int(share * len(content))])
    message = refusal(values)
    assert "not valid JSON" in message
    assert "The file may be truncated. Download or unpack it again" in message
