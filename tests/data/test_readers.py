"""Every data set in miniature, in its true form on disk, through its reader."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image

from mem.config import LongTailCut
from mem.data.datasets import ImageSet, Split, cifar, read_dataset
from mem.data.datasets.imagenet_lt import canonical as imagenet_name
from mem.data.datasets.known import CIFAR_LT, IMAGENET_LT, INATURALIST_2018, PLACES_LT, Known
from mem.data.datasets.labels import natural
from mem.data.datasets.places_lt import canonical as places_name
from mem.errors import UserError
from mem.longtail import cut_share, shot_groups, tail_counts
from tests.data import miniatures


def read(values: dict[str, Any], order: int = 0) -> ImageSet:
    return read_dataset(miniatures.settings(values), order)


def counts_of(split: Split, classes: int) -> list[int]:
    return np.bincount(split.labels, minlength=classes).tolist()


def pixels(split: Split, i: int) -> np.ndarray:
    content = split.read(i)
    return content if isinstance(content, np.ndarray) else np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def same(one: ImageSet, other: ImageSet) -> None:
    """Names, labels, order and the content of images are equal."""
    assert one.classes == other.classes
    for split, found in one.splits.items():
        expected = other.splits[split]
        assert found.names == expected.names, split
        np.testing.assert_array_equal(found.labels, expected.labels)
        for i in range(0, len(found), 7):
            np.testing.assert_array_equal(pixels(found, i), pixels(expected, i))


MINIATURES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "imagenet_lt": miniatures.imagenet_lt,
    "imagenet_lt, flat val": lambda folder: miniatures.imagenet_lt(folder, synset_folders=False),
    "places_lt": miniatures.places_lt,
    "places_lt, other layout": lambda folder: miniatures.places_lt(folder, easy=False),
    "inaturalist2018": miniatures.inaturalist_2018,
    "inaturalist2018, lists": lambda folder: miniatures.inaturalist_2018(folder, json_form=False),
    "folder": miniatures.folder_tree,
    "folder, one tree": lambda folder: miniatures.folder_tree(folder, split_folders=False),
    "lists": lambda folder: miniatures.long_tailed_png(folder, classes=12, largest=20),
    "csv": miniatures.table,
    "parquet": lambda folder: miniatures.table(folder, parquet=True),
}


@pytest.mark.parametrize("name", MINIATURES)
def test_each_miniature_goes_through_its_reader(name, tmp_path):
    images = read(MINIATURES[name](tmp_path))
    classes = len(images.classes)
    assert min(counts_of(images.train, classes)) >= 1
    assert min(counts_of(images.test, classes)) >= 1
    for split in images.splits.values():
        assert split.files is not None
        assert len(split.labels) == len(split.names) == len(split.files)
        for file in split.files:
            assert Path(file).is_file()
        if len(split):
            assert isinstance(split.read(0), bytes)
            assert split.read(len(split) - 1) == Path(split.files[-1]).read_bytes()


@pytest.mark.parametrize("name", MINIATURES)
def test_a_label_belongs_to_its_image(name, tmp_path):
    """The pictures' colours tell their class: each class's images are nearer to one another than to others'."""
    images = read(MINIATURES[name](tmp_path))
    means = np.stack([pixels(images.train, i).mean(axis=(0, 1)) for i in range(len(images.train))])
    centres = np.stack([means[images.train.labels == k].mean(axis=0) for k in range(len(images.classes))])
    spread = np.linalg.norm(means - centres[images.train.labels], axis=1).mean()
    assert spread < 0.5 * np.linalg.norm(means - centres.mean(axis=0), axis=1).mean()


# --- the paper's data sets ---------------------------------------------------------------------------------


def test_imagenets_val_images_may_lie_in_synsets_folders_or_not(tmp_path):
    with_folders = read(miniatures.imagenet_lt(tmp_path / "a"))
    without = read(miniatures.imagenet_lt(tmp_path / "b", synset_folders=False))
    same(with_folders, without)
    assert without.classes == miniatures.SYNSETS
    assert with_folders.facts is IMAGENET_LT
    assert "/val/n0" in with_folders.test.files[0]
    assert "/val/ILSVRC" in without.test.files[0]


def test_the_two_layouts_of_places_give_the_same_data_in_the_same_order(tmp_path):
    easy = read(miniatures.places_lt(tmp_path / "easy"))
    other = read(miniatures.places_lt(tmp_path / "other", easy=False))
    same(easy, other)
    assert easy.classes == ("airfield", "apartment_building-outdoor", "arch", "zen_garden")
    assert easy.facts is PLACES_LT
    assert "data_256/a/apartment_building/outdoor/" in " ".join(other.train.files)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("train/airfield/00004851.jpg", ("train/airfield/00004851.jpg", "airfield")),
        ("data_256/a/airfield/00004851.jpg", ("train/airfield/00004851.jpg", "airfield")),
        ("places365_standard/train/airfield/1.jpg", ("train/airfield/1.jpg", "airfield")),
        ("data_256/b/bow_window/indoor/1.jpg", ("train/bow_window-indoor/1.jpg", "bow_window-indoor")),
        ("train/bow_window-indoor/1.jpg", ("train/bow_window-indoor/1.jpg", "bow_window-indoor")),
        ("val/airfield/Places365_val_1.jpg", ("val/Places365_val_1.jpg", "airfield")),
        ("val_256/Places365_val_1.jpg", ("val/Places365_val_1.jpg", "")),
        ("airfield/1.jpg", None),
    ],
)
def test_a_places_image_has_one_name_in_all_layouts(path, expected):
    assert places_name(path) == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("train/n01440764/n01440764_190.JPEG", ("train/n01440764/n01440764_190.JPEG", "n01440764")),
        ("ILSVRC/Data/CLS-LOC/train/n01440764/x.JPEG", ("train/n01440764/x.JPEG", "n01440764")),
        ("val/n01440764/ILSVRC2012_val_1.JPEG", ("val/ILSVRC2012_val_1.JPEG", "n01440764")),
        ("val/ILSVRC2012_val_1.JPEG", ("val/ILSVRC2012_val_1.JPEG", "")),
        ("train/airfield/1.jpg", None),
    ],
)
def test_an_imagenet_image_has_one_name(path, expected):
    assert imagenet_name(path) == expected


def test_lists_whose_labels_are_numbered_otherwise_are_refused(tmp_path):
    values = miniatures.imagenet_lt(tmp_path)
    rows = [line.split() for line in Path(values["test_list"]).read_text().splitlines()]
    miniatures.write_list(Path(values["test_list"]), [(path, (int(label) + 1) % 12) for path, label in rows])
    with pytest.raises(UserError) as error:
        read(values)
    assert "48 images whose folder and label disagree with an earlier line" in str(error.value)
    assert "test, line 1: val/n01440764/" in str(error.value)
    assert "labels were numbered in another order" in str(error.value)


def test_lists_of_another_data_set_are_refused(tmp_path):
    values = miniatures.places_lt(tmp_path) | {"source": "imagenet_lt"}
    with pytest.raises(UserError, match="paths that are none of this data set: line 1: train/airfield/") as error:
        read(values)
    assert "Expected train/n01440764/NAME.JPEG" in str(error.value)


def test_inaturalists_lists_and_json_give_the_same_images_and_labels(tmp_path):
    from_json = read(miniatures.inaturalist_2018(tmp_path))
    from_lists = read(miniatures.inaturalist_2018(tmp_path, json_form=False))
    assert from_json.train.names == from_lists.train.names
    assert from_json.test.names == from_lists.test.names
    np.testing.assert_array_equal(from_json.train.labels, from_lists.train.labels)
    np.testing.assert_array_equal(from_json.test.labels, from_lists.test.labels)
    assert from_json.classes[11] == "Species numberl11"
    assert from_lists.classes[11] == "11"
    assert (len(from_json.val), from_json.facts) == (0, INATURALIST_2018)


@pytest.mark.parametrize("json_form", [True, False])
def test_inaturalists_labels_are_category_ids_and_not_places_in_string_order(tmp_path, json_form):
    images = read(miniatures.inaturalist_2018(tmp_path, json_form))
    folders = [int(name.split("/")[1]) for name in images.train.names]
    assert images.train.labels.tolist() == folders
    in_string_order = sorted(map(str, range(12)))
    trapped = [in_string_order.index(str(k)) for k in folders]
    assert images.train.labels.tolist() != trapped


def test_a_list_of_inaturalist_made_with_an_image_folder_is_refused(tmp_path):
    values = miniatures.inaturalist_2018(tmp_path, json_form=False)
    place = {name: k for k, name in enumerate(sorted(map(str, range(12))))}
    for key in ("train_list", "test_list"):
        rows = [line.split() for line in Path(values[key]).read_text().splitlines()]
        miniatures.write_list(Path(values[key]), [(path, place[label]) for path, label in rows])
    with pytest.raises(UserError, match="labels that are not the category id of their folder") as error:
        read(values)
    assert "as by ImageFolder" in str(error.value)


@pytest.mark.parametrize("known", [IMAGENET_LT, PLACES_LT, INATURALIST_2018, *CIFAR_LT.values()], ids=lambda k: k.title)
def test_known_totals_agree_with_one_another(known: Known):
    if known.groups is not None:
        assert sum(known.groups) == known.classes
    for split, number in known.per_class.items():
        assert known.images[split] == pytest.approx(number * known.classes)
    assert known.smallest * known.classes <= known.images["train"] <= known.largest * known.classes


# --- CIFAR -------------------------------------------------------------------------------------------------


@pytest.fixture
def small_cifar(monkeypatch) -> Callable[[int], None]:
    """Let the reader expect the miniature's totals."""
    return lambda classes: monkeypatch.setattr(cifar, "_EXPECTED", miniatures.cifar_totals(classes))


@pytest.mark.parametrize("classes", [10, 100])
def test_all_forms_of_cifar_give_the_same_data(classes, tmp_path, small_cifar):
    small_cifar(classes)
    forms = [
        read(miniatures.cifar(tmp_path / f"{binary}{packed}", classes, binary, packed))
        for binary in (False, True)
        for packed in (False, True)
        if (tmp_path / f"{binary}{packed}").mkdir() is None
    ]
    for other in forms[1:]:
        same(forms[0], other)
    counts = counts_of(forms[0].train, classes)
    assert (counts[0], counts[-1], len(forms[0].classes)) == (6, 2, classes)
    assert counts_of(forms[0].test, classes) == [2] * classes


def test_cifars_pixels_are_red_green_blue_planes_row_by_row(tmp_path, small_cifar):
    small_cifar(10)
    values = miniatures.cifar(tmp_path, 10, binary=True, packed=False, per_class=6)
    record = np.fromfile(tmp_path / "cifar-10-batches-bin" / "data_batch_1.bin", np.uint8)[:3073]
    images = read(values | {"cut": {"counts": [6] * 10, "seed": 0, "val_per_class": 0}})
    first = images.train.names.index("cifar-10/train/0")
    image = images.train.read(first)
    assert images.train.labels[first] == record[0]
    assert image[2, 5].tolist() == [record[1 + plane * 1024 + 2 * 32 + 5] for plane in range(3)]


def test_cifar_is_found_in_the_folder_that_holds_the_archive(tmp_path, small_cifar):
    small_cifar(100)
    values = miniatures.cifar(tmp_path, 100)
    same(read(values), read(values | {"root": str(tmp_path)}))


@pytest.mark.parametrize(
    ("classes", "imbalance", "total"),
    [
        (10, 100, 12_406),
        (10, 50, 13_996),
        (10, 10, 20_431),
        (100, 100, 10_847),
        (100, 50, 12_608),
        (100, 10, 19_573),
    ],
)
def test_cifar_lt_has_the_fields_counts(classes, imbalance, total, tmp_path, monkeypatch):
    labels = {"train": np.arange(50_000) % classes, "test": np.arange(10_000) % classes}
    blank = np.zeros((1, 3072), dtype=np.uint8)
    monkeypatch.setattr(
        cifar,
        "_read",
        lambda version, archive, files, classes, expected: (
            np.broadcast_to(blank, (expected, 3072)),
            labels["train" if expected == 50_000 else "test"],
        ),
    )
    values = miniatures.cifar(tmp_path, classes)
    values["cut"] = {"imbalance": imbalance, "seed": 0, "val_per_class": 0}
    images = read(values)
    facts = images.facts
    assert facts is CIFAR_LT[classes, imbalance]
    assert len(images.train) == total == facts.images["train"]
    counts = np.bincount(images.train.labels)
    assert (counts[0], counts.max(), counts.min()) == (50_000 // classes, facts.largest, facts.smallest)
    assert len(images.val) == 0
    if facts.groups:
        from mem.config import Shots

        assert np.bincount(shot_groups(counts, Shots())).tolist() == list(facts.groups)


def test_a_cut_that_keeps_images_for_val_is_not_the_fields(tmp_path, small_cifar):
    small_cifar(10)
    values = miniatures.cifar(tmp_path, 10)
    values["cut"] = {"imbalance": 100 / 30, "seed": 0, "val_per_class": 1, "largest": 5}
    images = read(values)
    assert images.facts is None
    assert counts_of(images.val, 10) == [1] * 10


# --- anyone's own ------------------------------------------------------------------------------------------


def test_folders_of_classes_are_in_natural_order_or_as_listed(tmp_path):
    values = miniatures.folder_tree(tmp_path)
    assert read(values).classes == tuple(f"class{k}" for k in range(1, 12))
    listed = [f"class{k}" for k in range(11, 0, -1)]
    (tmp_path / "names.txt").write_text("\n".join(listed))
    images = read(values | {"class_names": str(tmp_path / "names.txt")})
    assert images.classes == tuple(listed)
    assert {name.split("/")[1] for name, k in zip(images.test.names, images.test.labels, strict=True) if k == 0} == {
        "class11"
    }


def test_files_that_are_no_images_are_left_out_and_said(tmp_path):
    values = miniatures.folder_tree(tmp_path)
    before = read(values)
    (tmp_path / "tree" / "train" / "class3" / "README.txt").write_text("hello")
    (tmp_path / "tree" / "train" / "class3" / ".hidden.png").write_text("")
    images = read(values)
    same(before, images)
    assert images.notes == (
        f"{tmp_path}/tree/train: 1 files are no images by their names and were left out (train/class3/README.txt)",
    )


def test_a_test_split_is_set_aside_from_one_tree(tmp_path):
    values = miniatures.folder_tree(tmp_path, split_folders=False)
    whole = miniatures.tail(11, 12, 3)
    images = read(values)
    assert counts_of(images.test, 11) == [1] * 11
    assert counts_of(images.train, 11) == [count - 1 for count in whole]
    shared = read(values | {"test": {"share": 0.25, "seed": 0}})
    assert counts_of(shared.test, 11) == [int(count * 0.25 + 0.5) for count in whole]
    assert read(values | {"test": {"per_class": 1, "seed": 1}}).test.names != images.test.names


def test_any_balanced_set_can_be_cut(tmp_path):
    values = miniatures.folder_tree(tmp_path, classes=4, largest=12)
    root = Path(values["root"])
    for k in range(1, 5):
        for i in range(12):
            miniatures.write_image(root / "train" / f"class{k}" / f"train{i}.png", k - 1, i, 4)
    values |= {"cut": {"imbalance": 6, "seed": 0, "val_per_class": 0}}
    assert counts_of(read(values).train, 4) == [12, 6, 3, 2]
    assert counts_of(read(values).val, 4) == [2] * 4
    turned = counts_of(read(values, order=1).train, 4)
    assert sorted(turned) == [2, 3, 6, 12]


@pytest.mark.parametrize("parquet", [False, True])
def test_tables_have_columns_by_any_name_and_names_of_classes(tmp_path, parquet):
    images = read(miniatures.table(tmp_path, parquet))
    assert images.classes == tuple(f"Species, number {k}" for k in range(1, 7))
    assert counts_of(images.train, 6) == miniatures.tail(6, 9, 3)
    assert counts_of(images.val, 6) == counts_of(images.test, 6) == [1] * 6
    label = images.classes.index("Species, number 3")
    assert images.test.names[images.test.labels.tolist().index(label)] == "test_2_0.jpg"


def test_a_table_without_splits_has_its_test_split_set_aside(tmp_path):
    images = read(miniatures.table(tmp_path, split_column=False))
    assert len(images.val) == 0
    assert len(images.test) == sum(int(0.2 * (count + 2) + 0.5) for count in miniatures.tail(6, 9, 3))


def test_integer_labels_of_a_parquet_table_are_numbers(tmp_path):
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
def test_lists_have_any_separator_and_names_or_numbers(tmp_path, separator, mark):
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
    same(images, read(values))


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=30, unique=True))
@hypothesis_settings(deadline=None)
def test_natural_order_is_the_order_of_the_numbers(numbers):
    assert natural([f"class{n}" for n in numbers]) == [f"class{n}" for n in sorted(numbers)]
    assert natural(list(map(str, numbers))) == list(map(str, sorted(numbers)))


@given(st.lists(st.text(min_size=1, max_size=8), max_size=20))
@hypothesis_settings(deadline=None)
def test_natural_order_takes_any_names_and_loses_none(names):
    assert sorted(natural(names)) == sorted(names)
    assert natural(names[::-1]) == natural(names)


# --- val ---------------------------------------------------------------------------------------------------


@given(
    counts=st.lists(st.integers(1, 40), min_size=1, max_size=12),
    share=st.floats(0.01, 0.99),
    seed=st.integers(0, 5),
)
@hypothesis_settings(deadline=None)
def test_a_share_leaves_every_class_an_image_and_loses_none(counts, share, seed):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    parts = cut_share(labels, len(counts), share, seed, "holdout")
    assert sorted([*parts.train.tolist(), *parts.rest.tolist()]) == list(range(len(labels)))
    for k, count in enumerate(counts):
        assert (labels[parts.rest] == k).sum() == min(int(share * count + 0.5), count - 1)
    again = cut_share(labels, len(counts), share, seed, "holdout")
    np.testing.assert_array_equal(parts.rest, again.rest)


def test_a_holdout_is_taken_out_of_train_and_is_the_same_each_time(tmp_path):
    values = miniatures.inaturalist_2018(tmp_path)
    whole = read(values)
    held = read(values | {"holdout": {"share": 0.2, "seed": 0}})
    assert held.held_out
    assert not whole.held_out
    assert set(held.train.names) | set(held.val.names) == set(whole.train.names)
    assert len(held.train) + len(held.val) == len(whole.train)
    assert min(counts_of(held.train, 12)) >= 1
    assert held.test.names == whole.test.names
    assert read(values | {"holdout": {"share": 0.2, "seed": 0}}).val.names == held.val.names
    assert read(values | {"holdout": {"share": 0.2, "seed": 1}}).val.names != held.val.names
    for i in range(len(held.val)):
        assert held.val.read(i) == Path(held.val.files[i]).read_bytes()
        assert held.val.files[i].endswith(held.val.names[i])


def test_val_of_a_set_that_is_cut_comes_from_the_discarded_images(tmp_path, small_cifar):
    small_cifar(10)
    values = miniatures.cifar(tmp_path, 10)
    without = read(values | {"cut": {"imbalance": 2, "largest": 4, "seed": 0, "val_per_class": 0}})
    images = read(values | {"cut": {"imbalance": 2, "largest": 4, "seed": 0, "val_per_class": 2}})
    assert images.train.names == without.train.names
    assert counts_of(images.val, 10) == [2] * 10
    assert not set(images.val.names) & set(images.train.names)


@given(imbalance=st.floats(1, 200), largest=st.integers(200, 5000), classes=st.integers(2, 100))
@hypothesis_settings(deadline=None)
def test_the_exponential_tail_falls_from_the_largest_class_to_the_smallest(imbalance, largest, classes):
    cut = LongTailCut(imbalance=imbalance, largest=largest, seed=0, val_per_class=0)
    counts = tail_counts(cut, np.full(classes, 5000))
    by_formula = [int(largest * (1 / imbalance) ** (i / (classes - 1))) for i in range(classes)]
    assert np.abs(np.subtract(counts, by_formula)).max() <= 1  # where the product is a whole number, rounding decides
    assert counts[0] == largest
    assert list(counts) == sorted(counts, reverse=True)
