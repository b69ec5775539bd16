"""Files with class names (`dataset.class_names`)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from mem.config import Dataset
from mem.data.datasets import ImageSet, read_dataset
from mem.data.datasets.class_names import with_class_names
from mem.data.datasets.digits import read_digits
from mem.errors import UserError
from mem.runs.keys import index_digests, keyed
from tests.data.image_files import picture, saved
from tests.data.miniatures import imagenet_lt, inaturalist_2018, places_lt, settings
from tests.stages.running import MINI_VALUES

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
DIGITS = MINI_VALUES["dataset"]


def digits(**changes: object) -> ImageSet:
    return read_dataset(TypeAdapter(Dataset).validate_python({**DIGITS, **changes}), 0)


def with_ids(ids: tuple[str, ...]) -> ImageSet:
    """Return a dataset whose classes have the given ids."""
    images = read_digits(TypeAdapter(Dataset).validate_python(DIGITS), 0)
    return ImageSet(ids, images.train, images.val, images.test)


def write(path: Path, content: str) -> Path:
    path.write_text(content, encoding="utf-8")
    return path


IDS = tuple(f"n0000000{k}" for k in range(10))
FORMS = {
    "lines.txt": "\n".join(WORDS) + "\n",
    "wordnet.txt": "".join(f"{key} {word}\n" for key, word in reversed(list(zip(IDS, WORDS, strict=True)))),
    "by_id.json": json.dumps(dict(zip(IDS, WORDS, strict=True))),
    "by_label.json": json.dumps({str(k): word for k, word in enumerate(WORDS)}),
    "torchvision.json": json.dumps({str(9 - k): [IDS[k], word] for k, word in enumerate(WORDS)}),
    "categories.json": json.dumps([{"id": k, "name": word, "order": "x"} for k, word in enumerate(WORDS)]),
    "annotations.json": json.dumps(
        {"images": [], "categories": [{"id": key, "name": word} for key, word in zip(IDS, WORDS, strict=True)]}
    ),
    "places.txt": "".join(f"/{word[0]}/{word} {k}\n" for k, word in enumerate(WORDS)),
    "names.csv": "id,name\n" + "".join(f'{key},"{word}"\n' for key, word in zip(IDS, WORDS, strict=True)),
    "labels.tsv": "label\tname\textra\n" + "".join(f"{k}\t{word}\tx\n" for k, word in enumerate(WORDS)),
}


@pytest.mark.parametrize("name", FORMS)
def test_each_form_of_a_file_names_the_classes(tmp_path, name):
    images = with_ids(IDS)
    named = with_class_names(images, write(tmp_path / name, FORMS[name]))
    assert named.classes == WORDS
    assert named.train is images.train


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("lines.txt", "one\ntwo\n", "has 2 class names, but the dataset has 10 classes"),
        ("by_id.json", json.dumps({IDS[0]: "zero"}), "classes without a name (9): n00000001 (class 1)"),
        ("by_id.json", json.dumps({**dict(zip(IDS, WORDS, strict=True)), IDS[3]: " "}), "empty class names (1)"),
        ("by_id.json", json.dumps({key: "x" for key in IDS}), "duplicate class names (9)"),
        ("by_id.json", json.dumps({key: 3 for key in IDS}), "contains no class names. Expected one name per line"),
        ("by_id.json", "{", "cannot be read as JSON"),
        ("names.csv", "id,name\na,b\na,c\n", "ids with several names (1): a: b and c"),
        ("names.csv", "id,name\na\n", "rows without an id or a name (1)"),
        ("absent.txt", None, "no such file"),
    ],
)
def test_files_without_a_name_for_each_class_are_refused(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        write(path, content)
    with pytest.raises(UserError) as error:
        with_class_names(with_ids(IDS), path)
    assert message in str(error.value)
    assert str(path) in str(error.value)


def test_a_published_dataset_has_its_ids_unless_names_are_set(tmp_path):
    assert digits().classes == tuple(map(str, range(10)))
    assert digits(class_names=str(write(tmp_path / "names.txt", FORMS["lines.txt"]))).classes == WORDS


@pytest.mark.parametrize("json_form", [False, True])
def test_the_names_of_inaturalist_belong_to_the_category_ids(tmp_path, json_form):
    values = inaturalist_2018(tmp_path, json_form)
    count = len(read_dataset(settings(values), 0).classes)
    categories = [{"id": k, "name": f"species {count - k}", "supercategory": "Plantae"} for k in range(count)]
    path = write(tmp_path / "names.json", json.dumps(categories))
    images = read_dataset(settings({**values, "class_names": str(path)}), 0)
    assert images.classes == tuple(f"species {count - k}" for k in range(count))


@pytest.mark.parametrize("published", [imagenet_lt, places_lt])
def test_the_names_of_published_lists_belong_to_the_class_folders(tmp_path, published):
    values = published(tmp_path)
    ids = read_dataset(settings(values), 0).classes
    path = write(tmp_path / "names.json", json.dumps({name: f"name of {name}" for name in reversed(ids)}))
    images = read_dataset(settings({**values, "class_names": str(path)}), 0)
    assert images.classes == tuple(f"name of {name}" for name in ids)


def test_the_key_contains_the_names_only_if_they_are_set(tmp_path):
    plain = TypeAdapter(Dataset).validate_python(DIGITS)
    path = write(tmp_path / "names.txt", FORMS["lines.txt"])
    named = TypeAdapter(Dataset).validate_python({**DIGITS, "class_names": str(path)})
    assert keyed(plain, "convert") == keyed(named, "convert")
    assert index_digests(plain) == {}
    first = index_digests(named)
    assert list(first) == ["class_names list"]
    write(path, FORMS["lines.txt"].replace("zero", "nought"))
    assert index_digests(named) != first


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("names.txt", "b\na\n", ("b", "a")),  # the names are the folders and their order is that of the labels
        ("names.json", '{"a": "apple", "b": "pear"}', ("apple", "pear")),
        ("names.csv", "id,name\nb,pear\na,apple\n", ("apple", "pear")),
        ("names.csv", "b\na\n", ("b", "a")),  # a file without a header has one name per line
    ],
)
def test_a_file_with_ids_renames_the_classes_of_a_folder_and_keeps_their_order(tmp_path, name, content, expected):
    for split in ("train", "test"):
        for folder in ("a", "b"):
            path = tmp_path / "root" / split / folder / "0.png"
            path.parent.mkdir(parents=True)
            path.write_bytes(saved(picture(), "png"))
    values = {
        "source": "folder", "name": "own", "root": str(tmp_path / "root"), "train_folder": "train",
        "test_folder": "test", "pixel_mean": [0.5] * 3, "pixel_std": [0.5] * 3, "storage": "raw",
        "class_names": str(write(tmp_path / name, content)),
    }  # fmt: skip
    images = read_dataset(TypeAdapter(Dataset).validate_python(values), 0)
    assert images.classes == expected
    first = 0 if expected[0] in ("a", "apple") else 1
    assert images.train.names[first] == "train/a/0.png"
    assert images.train.labels.tolist() == [0, 1]
