"""Every data set in miniature, in its true form on disk, through its reader."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mem.data.datasets import cifar
from mem.data.datasets.imagenet_lt import canonical as imagenet_name
from mem.data.datasets.places_lt import canonical as places_name
from mem.data.datasets.reference_counts import CIFAR_LT, IMAGENET_LT, INATURALIST_2018, PLACES_LT, ReferenceCounts
from mem.errors import UserError
from mem.longtail import shot_groups
from tests.data import miniatures
from tests.data.miniatures import MINIATURES
from tests.data.reading import counts_of, pixels, read, same


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
    assert with_folders.reference is IMAGENET_LT
    assert "/val/n0" in with_folders.test.files[0]
    assert "/val/ILSVRC" in without.test.files[0]


def test_the_two_layouts_of_places_give_the_same_data_in_the_same_order(tmp_path):
    easy = read(miniatures.places_lt(tmp_path / "easy"))
    other = read(miniatures.places_lt(tmp_path / "other", easy=False))
    same(easy, other)
    assert easy.classes == ("airfield", "apartment_building-outdoor", "arch", "zen_garden")
    assert easy.reference is PLACES_LT
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
    assert (len(from_json.val), from_json.reference) == (0, INATURALIST_2018)


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
def test_known_totals_agree_with_one_another(known: ReferenceCounts):
    if known.groups is not None:
        assert sum(known.groups) == known.classes
    for split, number in known.per_class.items():
        assert known.images[split] == pytest.approx(number * known.classes)
    assert known.smallest * known.classes <= known.images["train"] <= known.largest * known.classes


# --- CIFAR -------------------------------------------------------------------------------------------------


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
    facts = images.reference
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
    assert images.reference is None
    assert counts_of(images.val, 10) == [1] * 10
