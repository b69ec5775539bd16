"""What is wrong with lists, tables, archives and annotations: one message that says which and how many."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mem.data.datasets import ImageSet, cifar, read_dataset
from mem.data.datasets.index_files import read_list
from mem.data.datasets.pickles import load_pickle
from mem.errors import UserError
from tests.data import miniatures

Row = tuple[str, int | str]
GOOD: list[Row] = [("a/1.jpg", 0), ("a/2.jpg", 0), ("b/1.jpg", 1), ("c/1.jpg", 2)]
TEST: list[Row] = [("t/1.jpg", 0), ("t/2.jpg", 1), ("t/3.jpg", 2)]


def listed(folder: Path, train: list[Row] | bytes, test: list[Row] | bytes = TEST, **more: Any) -> dict[str, Any]:
    """A data set of two lists."""
    for name, rows in (("train", train), ("test", test)):
        path = folder / f"{name}.txt"
        path.write_bytes(rows) if isinstance(rows, bytes) else miniatures.write_list(path, rows)
    lists = {"train_list": str(folder / "train.txt"), "test_list": str(folder / "test.txt")}
    return miniatures.PIXELS | {"source": "lists", "name": "x", "root": str(folder)} | lists | more


def read(values: dict[str, Any]) -> ImageSet:
    return read_dataset(miniatures.settings(values), 0)


def refusal(values: dict[str, Any]) -> str:
    with pytest.raises(UserError) as error:
        read(values)
    message = str(error.value)
    message.encode()  # can be printed
    return message


# --- lists -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([("d/1.jpg", "two")] * 3, "3 labels that are no numbers: line 5: d/1.jpg two"),
        ([("d/1.jpg", "1.0")], "1 labels that are no numbers: line 5: d/1.jpg 1.0"),
        ([("d/1.jpg", "1_0")], "1 labels that are no numbers: line 5: d/1.jpg 1_0"),
        ([("d/1.jpg", "٣")], "1 labels that are no numbers: line 5: d/1.jpg ٣"),
        ([("d/1.jpg", "9" * 30)], "1 labels that are no numbers"),
        ([("d/1.jpg", -1), ("d/2.jpg", -7)], "2 labels that are negative: line 5: d/1.jpg -1, line 6: d/2.jpg -7"),
        ([("d/1.jpg", 5)], "2 classes that no image has (labels with gaps): 3, 4. Labels must be 0 to 5 without gaps"),
        ([("d/1.jpg", 10**12)], "999,999,999,997 classes that no image has (labels with gaps): 3, 4, 5, 6, 7 and"),
        ([("/d/1.jpg", 1), ("/d/2.jpg", 1)], "2 absolute paths: line 5: /d/1.jpg, line 6: /d/2.jpg"),
        ([("C:\\d\\1.jpg", 1)], "1 absolute paths: line 5: C:\\d\\1.jpg"),
        ([("../d/1.jpg", 1), ("d/../../e.jpg", 1)], "2 paths with `..`: line 5: ../d/1.jpg, line 6: d/../../e.jpg"),
        ([("d/\0.jpg", 1)], "1 paths with a zero byte: line 5"),
        ([("", 1)], "1 lines without a path: line 5"),
        ([("a/1.jpg", 0)], "1 images stand twice in train: a/1.jpg"),
        ([("a//1.jpg", 0), ("./a/./2.jpg", 0)], "2 images stand twice in train: a/1.jpg, a/2.jpg"),
        ([("t/1.jpg", 0), ("t/3.jpg", 2)], "2 images stand in train and in test: t/1.jpg, t/3.jpg"),
        ([(f"d/{i}.jpg", "x") for i in range(1000)], "and 995 more"),
    ],
)
def test_a_bad_line_is_named_and_all_of_its_kind_are_counted(tmp_path, rows, expected):
    assert expected in refusal(listed(tmp_path, GOOD + rows))


def test_all_kinds_of_faults_are_in_one_message(tmp_path):
    message = refusal(listed(tmp_path, [*GOOD, ("/x.jpg", 1), ("../y.jpg", 1), ("z.jpg", "")]))
    assert message.count("\n") == 3
    assert "train.txt:\n" in message
    assert "lines without a label: line 7: z.jpg. Expected a path, a space and a label" in message


def test_a_class_without_a_training_image_is_named(tmp_path):
    assert "1 classes without a training image: 3" in refusal(listed(tmp_path, GOOD, [*TEST, ("t/4.jpg", 3)]))
    names = tmp_path / "names.txt"
    names.write_text("\n".join("abcde"))
    message = refusal(listed(tmp_path, GOOD, class_names=str(names)))
    assert "2 classes that no image has (labels with gaps): 3, 4" in message
    names.write_text("a\nb")
    assert "1 labels beyond the classes: 2. Classes are 0 to 1" in refusal(
        listed(tmp_path, GOOD, class_names=str(names))
    )


def test_labels_that_are_no_name_of_a_class_are_named(tmp_path):
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    values = {"labels": "names", "class_names": str(tmp_path / "names.txt")}
    rows: list[Row] = [("1.jpg", "cat"), ("2.jpg", "dog"), ("3.jpg", "cow")]
    message = refusal(listed(tmp_path, rows, [("4.jpg", "cat")], **values))
    assert "1 labels that are no name of a class: line 3: 3.jpg cow" in message


def test_names_of_classes_that_stand_twice_are_named(tmp_path):
    (tmp_path / "names.txt").write_text("cat\ndog\ncat\n")
    message = refusal(listed(tmp_path, GOOD, class_names=str(tmp_path / "names.txt")))
    assert "1 names of classes that stand twice: cat (classes 0 and 2)" in message


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "the list is empty. Expected a line for each image: its path, a space, its label"),
        (b"\n \r\n\n", "the list is empty"),
        (b"\xff\xfea\x00 \x000\x00", "is UTF-16 text; save it as UTF-8"),
        (b"\x1f\x8b\x08\x00", "is compressed; unpack it first"),
        (b"PK\x03\x04....", "is a zip archive"),
        (b"<!DOCTYPE html><html>", "is a web page, not the file; download it again"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
        (b"a.jpg,0\nb.jpg,1\n", "2 lines without a label: line 1: a.jpg,0"),
    ],
)
def test_what_is_no_list_is_refused(tmp_path, content, expected):
    assert expected in refusal(listed(tmp_path, content))


def test_a_missing_list_is_named(tmp_path):
    values = listed(tmp_path, GOOD)
    os.unlink(tmp_path / "test.txt")
    assert f"{tmp_path}/test.txt: no such file" in refusal(values)
    assert "Is a directory" in refusal(values | {"test_list": str(tmp_path)})


def test_line_ends_of_any_system_blank_lines_a_byte_order_mark_and_spaces_are_accepted(tmp_path):
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


def test_names_that_are_no_utf8_lead_to_their_files(tmp_path):
    name = b"caf\xe9 \xff.jpg"
    (tmp_path / os.fsdecode(name)).write_bytes(b"an image")
    images = read(listed(tmp_path, name + b" 0\nb.jpg 1\nc.jpg 2\n"))
    assert os.fsencode(images.train.names[0]) == name
    assert images.train.read(0) == b"an image"
    assert "café" not in refusal(listed(tmp_path, name + b" 0\n" + name + b" 0\nb.jpg 1\nc.jpg 2\n"))


@given(content=st.binary(max_size=200))
@settings(deadline=None)
def test_any_bytes_give_rows_or_one_message(content, tmp_path_factory):
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
def test_what_was_written_is_what_is_read(rows, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "written.txt"
    content = "".join(f"{'/'.join(parts)} {label}\n" for parts, label in rows)
    path.write_bytes(b"\xef\xbb\xbf" + content.encode())
    found = read_list(path)
    assert found.paths == ["/".join(parts) for parts, _ in rows]
    assert found.labels == [str(label) for _, label in rows]


# --- folders and tables ------------------------------------------------------------------------------------


def test_folders_that_do_not_fit_together_are_named(tmp_path):
    values = miniatures.folder_tree(tmp_path)
    root = Path(values["root"])
    (root / "test" / "class99").mkdir()
    assert "1 folders of classes in test that are none in the training split: test/class99" in refusal(values)
    (root / "test" / "class99").rmdir()
    shutil.rmtree(root / "train" / "class4")
    (root / "train" / "class4").mkdir()
    assert "1 classes without a training image: class4" in refusal(values)
    assert "nothing: no such folder" in refusal(values | {"val_folder": "nothing"})
    assert "no such folder" in refusal(values | {"root": str(tmp_path / "none")})
    (tmp_path / "names.txt").write_text("class1\nclass77\n")
    message = refusal(values | {"class_names": str(tmp_path / "names.txt")})
    assert "10 folders of classes in train that are none in class_names" in message
    assert "1 classes without a folder of training images: class77" in message


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "the table is empty"),
        ("file,species\n", "the table is empty: it has a header and no rows"),
        ("path,species\na,b\n", "no column file. There are: path, species"),
        ("file,file,species\na,b,c\n", "column file stands twice"),
        ("file,species\na.jpg,x\nb.jpg\nc.jpg,x,y\n", "2 rows without 2 cells, as the header has: row 2 has 1, row 3"),
        ("file,species\na.jpg,x\n,x\nc.jpg,\n", "1 rows without a file: row 2"),
        ("file,species\n/a.jpg,x\n../b.jpg,x\n", "1 absolute paths: row 1: /a.jpg"),
        ('file,species\n"a.jpg,x\n', "no row"),
    ],
)
def test_a_bad_table_is_refused(tmp_path, content, expected):
    (tmp_path / "t.csv").write_text(content)
    values = {
        "source": "table",
        "name": "t",
        "root": str(tmp_path),
        "table": str(tmp_path / "t.csv"),
        "labels": "names",
    }
    values |= {"path_column": "file", "label_column": "species", "test": {"share": 0.5, "seed": 0}}
    if expected == "no row":
        expected = "rows without 2 cells"
    assert expected in refusal(miniatures.PIXELS | values)


def test_splits_of_a_table_are_checked(tmp_path):
    values = miniatures.table(tmp_path)
    assert "rows of an unknown part" in refusal(values | {"split_values": {}})
    assert "and 1 more. Known are train, val, test" in refusal(values | {"split_values": {}})
    message = refusal(values | {"test": {"per_class": 1, "seed": 0}})
    assert "has rows of a test split; leave dataset.test out" in message
    text = Path(values["table"]).read_text()
    Path(values["table"]).write_text("\n".join(line for line in text.splitlines() if not line.endswith(",test")))
    assert "has no rows of a test split" in refusal(values)
    assert "has a val split of 6 images; leave dataset.holdout out" in refusal(
        values | {"test": {"share": 0.3, "seed": 0}, "holdout": {"share": 0.2, "seed": 0}}
    )


def test_half_a_parquet_file_is_refused(tmp_path):
    values = miniatures.table(tmp_path, parquet=True)
    content = Path(values["table"]).read_bytes()
    Path(values["table"]).write_bytes(content[: len(content) // 2])
    assert "no whole Parquet file" in refusal(values)
    assert "no column nothing. There are: id, file, species, part" in refusal(
        miniatures.table(tmp_path, parquet=True) | {"label_column": "nothing"}
    )


# --- annotations in JSON -----------------------------------------------------------------------------------


def annotations(folder: Path, change) -> dict[str, Any]:
    """The miniature of iNaturalist with a changed training file."""
    values = miniatures.inaturalist_2018(folder)
    path = Path(values["train_list"])
    content = json.loads(path.read_text())
    path.write_text(json.dumps(change(content) or content))
    return values


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda c: c.pop("annotations") and None, "lists images without annotations, like the competition's test part"),
        (lambda c: c.pop("categories") and None, "JSON of another kind: it has no categories"),
        (lambda c: [c], "JSON of another kind: it has no images, annotations, categories"),
        (lambda c: 7, "JSON of another kind"),
        (lambda c: c.update(images=[]), "`images` is no list, or an empty one"),
        (lambda c: c["images"][0].pop("file_name") and None, "1 entries of `images` without a valid `file_name`"),
        (lambda c: c["annotations"][0].update(category_id="4"), "1 entries of `annotations` without a valid `category"),
        (lambda c: c["annotations"][0].update(category_id=99), "1 annotations with a category that is not listed"),
        (lambda c: c["annotations"][0].update(image_id=10**6), "1 annotations of images that are not listed"),
        (lambda c: c["annotations"].pop() and None, "1 images without an annotation: image 1"),
        (lambda c: c["images"][1].update(id=1), "image ids that stand twice"),
        (lambda c: c["categories"][0].update(name="Species numbera0"), "1 names of classes that stand twice"),
        (lambda c: c["categories"][0].update(id=12), "1 category ids that are missing: 11"),
        (lambda c: c["images"][0].update(file_name="../x/3/y.jpg"), "1 paths with `..`: image 1: ../x/3/y.jpg"),
    ],
)
def test_bad_annotations_are_refused(tmp_path, change, expected):
    assert expected in refusal(annotations(tmp_path, change))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_half_a_json_file_is_refused(tmp_path, share):
    values = miniatures.inaturalist_2018(tmp_path)
    content = Path(values["train_list"]).read_bytes()
    Path(values["train_list"]).write_bytes(content[: int(share * len(content))])
    assert "no whole JSON file" in refusal(values)
    assert "half downloaded or half unpacked" in refusal(values)


# --- archives ----------------------------------------------------------------------------------------------


@pytest.fixture
def archive(tmp_path, monkeypatch) -> dict[str, Any]:
    """CIFAR-10's archive in miniature."""
    monkeypatch.setattr(cifar, "_EXPECTED", miniatures.cifar_totals(10))
    return miniatures.cifar(tmp_path, 10)


@pytest.mark.parametrize("share", [0.0, 0.2, 0.6, 0.999])
def test_half_an_archive_is_refused(archive, share):
    path = Path(archive["root"])
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert "no whole archive" in refusal(archive)
    assert "Download it again" in refusal(archive)


def test_an_archive_that_is_half_unpacked_is_refused(tmp_path, archive):
    values = miniatures.cifar(tmp_path, 10, packed=False)
    (Path(values["root"]) / "data_batch_3").unlink()
    (Path(values["root"]) / "batches.meta").unlink()
    for root in (values["root"], str(tmp_path)):
        assert "half unpacked, or half copied: data_batch_3, batches.meta missing" in refusal(values | {"root": root})


def test_a_torn_batch_is_refused(tmp_path, archive):
    for binary, name, expected in (
        (False, "data_batch_2", "incomplete"),
        (True, "data_batch_2.bin", "no whole number"),
    ):
        values = miniatures.cifar(tmp_path, 10, binary, packed=False)
        path = Path(values["root"]) / name
        path.write_bytes(path.read_bytes()[:-5])
        assert expected in refusal(values)


def test_batches_of_another_number_of_images_are_refused(archive, monkeypatch):
    monkeypatch.setattr(cifar, "_EXPECTED", {"train": 50_000, "test": 10_000})
    assert "60 images, CIFAR-10 has 50,000: other files, or a part" in refusal(archive)


def test_cifar_that_is_nowhere_is_named_with_how_to_get_it(tmp_path):
    values = miniatures.PIXELS | {"source": "cifar100", "name": "c", "root": str(tmp_path / "none")}
    message = refusal(values | {"cut": {"imbalance": 100, "seed": 0, "val_per_class": 0}})
    assert "Looked there for cifar-100-python.tar.gz or its folder cifar-100-python" in message
    assert "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz" in message


class Harmful:
    """Whoever loads a pickle of it runs a command."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_pickle_that_would_run_something_is_refused_and_runs_nothing(tmp_path, archive):
    values = miniatures.cifar(tmp_path, 10, packed=False)
    (Path(values["root"]) / "test_batch").write_bytes(pickle.dumps({"data": Harmful(tmp_path / "made")}, protocol=2))
    message = refusal(values)
    assert (
        "test_batch: cannot be read as a pickle of arrays: it asks for posix.mkdir, which data do not need" in message
    )
    assert not (tmp_path / "made").exists()


@given(st.binary(max_size=60))
@settings(deadline=None)
def test_any_bytes_give_a_value_or_one_message(content):
    try:
        load_pickle(content, "x")
    except UserError as error:
        assert "x: cannot be read as a pickle" in str(error)


def test_pickles_of_python_3_are_read_too():
    value = {"data": np.arange(6, dtype=np.uint8).reshape(2, 3), "labels": [1, 2], "name": b"\xff"}
    for protocol in (2, 4):
        found = load_pickle(pickle.dumps(value, protocol=protocol), "x")
        np.testing.assert_array_equal(found["data"], value["data"])
        assert found["labels"] == [1, 2]
